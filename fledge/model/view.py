"""What a query may see, decided by positions and documents alone, and what positions do to queries, keys and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fledge import arch
from fledge.model import kernels
from fledge.model.kernels import Ranges
from fledge.model.norm import RmsNorm
from fledge.model.positions import Nowhere, turn

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

PADDING, EMPTY = -1, -2
LEAST_HEAD = 16  # numbers of a head's vectors, for FlexAttention


class View:
    """One kind of attention in one forward pass: which keys each query sees, how far it is turned, what is added to its scores.

    `allowed` is (batch or 1, 1, query, key), true where a query sees a key; `causal` says that it is the plain lower
    triangle, and `full` that it is all true, so that a kernel needs no mask. `bias` is (batch or 1, heads, query, key) or none. Where
    rows are looked at `alone`, each looks at as many of its first keys as its own view has `keys`.
    """

    def __init__(self, layout: Layout, spec: arch.Attention, bias: Tensor | None = None, alone: Sequence[View] = ()):
        self._layout, self.spec, self.bias, self.alone = layout, spec, bias, alone
        self.keys = layout.keys.shape[1]
        left, right = spec.sees
        whole = layout.plain and bias is None and (left is None or left >= layout.keys.shape[1] - 1)
        self.causal = whole and right == 0
        self.full = whole and right is None
        self._allowed: Tensor | None = None
        self._mask: Tensor | None = None
        self.blocks: BlockMask | None = None
        rope = spec.positions
        self._turn = None
        if rope is not None and not layout.row:
            lengths = layout.lengths if rope.changes_after is not None else None
            self._turn = turn(layout.queries, rope, rope.turned(spec.head_size), layout.exact, lengths)

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.spec.head_size) if self.spec.scale is None else self.spec.scale

    @property
    def allowed(self) -> Tensor:
        if self._allowed is None:
            self._allowed = sees(self._layout, self.spec.sees)
        return self._allowed

    @property
    def mask(self) -> Tensor | None:
        """What a kernel has to be given: nothing where it knows the case itself."""
        if self.causal or self.full:
            return None
        if self._mask is None:
            self._mask = self.allowed if self.bias is None else self.bias.masked_fill(~self.allowed, -math.inf)
        return self._mask

    def prepare(self, dropout: float = 0.0) -> None:
        """Make what the blocks share before the first of them is compiled: `blocks`, which FlexAttention takes for a mask, or the mask."""
        if self.causal or self.full or self.blocks is not None:
            return
        if self.bias is None and self.spec.soft_cap is None and not dropout and self.spec.head_size >= LEAST_HEAD:
            self.blocks = block_mask(self._layout, self.spec.sees)
        else:
            _ = self.mask

    @cached_property
    def ranges(self) -> Ranges | None:
        """The first key that each query sees and the one after its last, each (1 or batch, query).

        None where it does not see all between, where the keys are not those of the queries, and where scores are more than scaled products.
        """
        spec = self.spec
        if self._layout.keys is not self._layout.queries or self.bias is not None or spec.scale is not None or spec.soft_cap is not None:
            return None
        if self.causal or self.full:
            places = torch.arange(self._layout.keys.shape[1], device=self._layout.keys.device)[None]
            return torch.zeros_like(places), places + 1 if self.causal else torch.full_like(places, places.shape[1])
        seen = self.allowed[:, 0].to(torch.uint8)
        first, last = seen.argmax(-1), seen.shape[-1] - seen.flip(-1).argmax(-1)
        return (first, last) if torch.equal(last - first, seen.sum(-1, dtype=torch.long)) else None

    def rotate(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Heads (batch, query, heads, head_size), normalised and turned by their positions, as (batch, heads, query, head_size)."""
        if self._turn is not None and (size := 2 * self._turn[0].shape[-1]) < x.shape[-1]:
            x = norm(x).transpose(1, 2)
            turned = kernels.turn(x[..., :size], *self._turn)
            return torch.cat((turned, x[..., size:]), -1)
        if isinstance(norm, RmsNorm):
            return kernels.turn_heads(x, norm.weight, norm.epsilon, self._turn)
        return kernels.turn_heads(norm(x), None, 0.0, self._turn)


class Layout:
    """Where the queries and the keys of one forward pass stand: positions (batch or 1, length) and documents (batch, length) of each.

    Without documents every row is one document from position 0 on and, unless the queries look `across` at other keys, the keys are the
    queries. Angles are computed in `exact`, fp32 or more. Where it is known that each row has keys up to one of `ends` only, it is looked
    at by itself, so that not a bit depends on the other rows.
    """

    def __init__(
        self,
        queries: Tensor,
        query_documents: Tensor | None,
        keys: Tensor,
        key_documents: Tensor | None,
        across: bool = False,
        exact: torch.dtype = torch.float32,
        ends: Sequence[int] | None = None,
    ):
        self.queries, self.query_documents = queries, query_documents
        self.keys, self.key_documents = keys, key_documents
        self.across, self.exact, self.ends = across, exact, ends
        self.plain = query_documents is None
        self.row = False  # of a layout whose queries have been turned together
        self._views: dict[arch.Attention, View] = {}

    @cached_property
    def lengths(self) -> Tensor:
        """How long the document of each query is, as far as there are keys of it: (batch or 1, query or 1)."""
        if self.query_documents is None or self.key_documents is None:
            return self.keys.max(1, keepdim=True).values + 1
        return document_lengths(self.query_documents, self.keys, self.key_documents)

    def view(self, spec: arch.Attention, positions: Nowhere | None = None) -> View:
        """The view of one attention, made once for all layers that share its specification."""
        if spec not in self._views:
            alone = [row.view(spec, positions) for row in self.rows]
            bias = None if alone or positions is None else positions.bias(self.queries, self.keys, spec.sees)
            self._views[spec] = View(self, spec, bias, alone)
        return self._views[spec]

    @cached_property
    def rows(self) -> list[Layout]:
        """Each row by itself, where its keys have an end."""

        def one(part: Tensor | None, row: int, end: int | None = None) -> Tensor | None:
            return None if part is None else part[row : row + 1, :end] if len(part) > 1 else part[:, :end]

        def layout(row: int, end: int) -> Layout:
            queries, keys = one(self.queries, row), one(self.keys, row, end)
            assert queries is not None
            assert keys is not None
            own = Layout(queries, one(self.query_documents, row), keys, one(self.key_documents, row, end), self.across, self.exact)
            own.row = True
            return own

        return [layout(row, end) for row, end in enumerate(self.ends or ())]


def document_lengths(documents: Tensor, positions: Tensor, of: Tensor) -> Tensor:
    """One more than the largest of `positions` (batch or 1, key) whose document in `of` (batch, key) is this one, (batch, query)."""
    numbers = int(torch.cat((documents, of), 1).max()) - EMPTY + 1
    longest = torch.zeros(len(of), numbers, dtype=torch.long, device=of.device)
    longest.scatter_reduce_(1, of - EMPTY, positions.expand_as(of) + 1, "amax")
    return longest.gather(1, documents - EMPTY)


def sees(layout: Layout, reach: arch.Sees) -> Tensor:
    """Which keys each query sees: (batch or 1, 1, query, key)."""
    documents = (None, None)
    if layout.query_documents is not None and layout.key_documents is not None:
        documents = layout.query_documents[:, :, None], layout.key_documents[:, None, :]
    return seen(layout.keys[:, None, :] - layout.queries[:, :, None], *documents, reach, layout.across)[:, None]


def seen(distance: Tensor, query: Tensor | None, key: Tensor | None, reach: arch.Sees, across: bool) -> Tensor:
    """`left <= distance, which is key position - query position, <= right` and the same document.

    Padding that looks across sees everything, for the source may hold no padding, and a softmax over nothing is no number.
    """
    allowed = torch.ones_like(distance, dtype=torch.bool)
    left, right = reach
    if left is not None:
        allowed = allowed & (distance >= -left)
    if right is not None:
        allowed = allowed & (distance <= right)
    if query is not None and key is not None:
        same = query == key
        allowed = allowed & (same | (query == PADDING) if across else same)
    return allowed


def block_mask(layout: Layout, reach: arch.Sees) -> BlockMask:
    """The same for FlexAttention (Dong et al., 2024, arXiv:2412.05496): which blocks are empty, which whole, and the rule for the rest."""
    from torch.nn.attention.flex_attention import create_block_mask

    rows = len(layout.keys) if layout.query_documents is None else len(layout.query_documents)
    queries, keys = layout.queries.expand(rows, -1), layout.keys.expand(rows, -1)
    query_documents, key_documents, across = layout.query_documents, layout.key_documents, layout.across

    def rule(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        documents = (None, None)
        if query_documents is not None and key_documents is not None:
            documents = query_documents[row, query], key_documents[row, key]
        return seen(keys[row, key] - queries[row, query], *documents, reach, across)

    make = kernels.compiled(create_block_mask)
    return make(rule, rows, None, queries.shape[1], keys.shape[1], device=queries.device)
