"""What a query may see, decided by positions and documents alone, and the rotation that positions give."""

from functools import cached_property

import torch
from torch import Tensor, nn

from fledge import arch
from fledge.arch import Rope
from fledge.model import kernels
from fledge.model.kernels import Ranges
from fledge.model.norm import RmsNorm

PADDING, EMPTY = -1, -2


class View:
    """One kind of attention in one forward pass: which keys each query sees, and how far it is turned.

    `allowed` is (batch or 1, 1, query, key), true where a query sees a key; `causal` says that it is the plain lower
    triangle, and `full` that it is all true, so that a kernel needs no mask.
    """

    def __init__(self, layout: "Layout", spec: arch.Attention):
        self._layout, self._spec = layout, spec
        left, right = spec.sees
        whole = layout.plain and (left is None or left >= layout.keys.shape[1] - 1)
        self.causal = whole and right == 0
        self.full = whole and right is None
        self._allowed: Tensor | None = None
        self._turn = turn(layout.queries, spec.positions, spec.head_size) if spec.positions is not None else None

    @property
    def allowed(self) -> Tensor:
        if self._allowed is None:
            self._allowed = sees(self._layout, self._spec.sees)
        return self._allowed

    @property
    def mask(self) -> Tensor | None:
        """What a kernel has to be given: nothing where it knows the case itself."""
        return None if self.causal or self.full else self.allowed

    @cached_property
    def ranges(self) -> Ranges | None:
        """The first key that each query sees and the one after its last, each (1 or batch, query).

        None where it does not see all between, and where the keys are not those of the queries.
        """
        if self._layout.keys is not self._layout.queries:
            return None
        if self.causal or self.full:
            places = torch.arange(self._layout.keys.shape[1], device=self._layout.keys.device)[None]
            return torch.zeros_like(places), places + 1 if self.causal else torch.full_like(places, places.shape[1])
        seen = self.allowed[:, 0].to(torch.uint8)
        first, last = seen.argmax(-1), seen.shape[-1] - seen.flip(-1).argmax(-1)
        return (first, last) if torch.equal(last - first, seen.sum(-1, dtype=torch.long)) else None

    def rotate(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Heads (batch, query, heads, head_size), normalised and turned by their positions, as (batch, heads, query, head_size)."""
        if isinstance(norm, RmsNorm):
            return kernels.turn_heads(x, norm.weight, norm.epsilon, self._turn)
        return kernels.turn_heads(norm(x), None, 0.0, self._turn)


class Layout:
    """Where the queries and the keys of one forward pass stand: positions (batch or 1, length) and documents (batch, length) of each.

    `plain` promises that every row is one document from position 0 on and that the keys are the queries.
    """

    def __init__(self, queries: Tensor, query_documents: Tensor | None, keys: Tensor, key_documents: Tensor | None):
        self.queries, self.query_documents = queries, query_documents
        self.keys, self.key_documents = keys, key_documents
        self.plain = query_documents is None
        self._views: dict[arch.Attention, View] = {}

    def view(self, spec: arch.Attention) -> View:
        """The view of one attention, made once for all layers that share its specification."""
        if spec not in self._views:
            self._views[spec] = View(self, spec)
        return self._views[spec]


def sees(layout: Layout, reach: arch.Sees) -> Tensor:
    """`left <= key position - query position <= right` and the same document: (batch or 1, 1, query, key)."""
    distance = layout.keys[:, None, :] - layout.queries[:, :, None]
    left, right = reach
    allowed = torch.ones_like(distance, dtype=torch.bool)
    if left is not None:
        allowed &= distance >= -left
    if right is not None:
        allowed &= distance <= right
    if layout.query_documents is not None and layout.key_documents is not None:
        allowed = allowed & (layout.query_documents[:, :, None] == layout.key_documents[:, None, :])
    return allowed[:, None]


def turn(positions: Tensor, rope: Rope, size: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of `position × base^(-2i/size)`, each (batch or 1, 1, query, size / 2), in fp32 (arXiv:2104.09864, eq. 15)."""
    frequencies = rope.base ** -(torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size)
    angles = (positions.float()[:, :, None] * frequencies)[:, None]
    return angles.cos(), angles.sin()
