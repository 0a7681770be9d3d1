"""What a model has already read: a decoder's keys and values in slots that fill and empty independently, an encoder's states."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fledge.arch import Stack
from fledge.model.view import EMPTY, PADDING, Layout

if TYPE_CHECKING:
    from fledge.model.attention import Attention


class Ring:
    """Where layers that see equally far keep what they have read: `size` places in each slot, taken in turns again and again.

    Token number i of a slot lies at place i modulo size; `positions` and `documents` (slots, size) say what lies there, an empty place
    being in no document.
    """

    def __init__(self, slots: int, size: int, device: torch.device | str | None):
        self.size = size
        self.positions = torch.zeros(slots, size, dtype=torch.long, device=device)
        self.documents = torch.full((slots, size), EMPTY, device=device)


class Cache:
    """Room for `capacity` tokens in each of `slots` rows, kept with their positions and documents.

    `filled` (slots,) counts the tokens read; a row of padding alone counts for nothing. Layers that see all keep all; those with a
    window keep what it shows while at most `chunk` tokens are read at once (by default the capacity, so that nothing is lost). A forward
    pass opens the cache once, and each layer extends it by its own keys and values at the same places.
    """

    def __init__(
        self,
        stack: Stack,
        slots: int,
        capacity: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        chunk: int | None = None,
    ):
        self.capacity, self.chunk = capacity, min(chunk or capacity, capacity)
        self.filled = torch.zeros(slots, dtype=torch.long, device=device)
        self.tokens = torch.zeros(slots, capacity, dtype=torch.long, device=device)
        lefts = [block.attention.sees[0] for block in stack.blocks]
        sizes = [_even(capacity if left is None else min(capacity, left + self.chunk)) for left in lefts]
        kinds = list(dict.fromkeys(sizes))
        self.rings = [Ring(slots, size, device) for size in kinds]
        self.ring_of = [kinds.index(size) for size in sizes]
        self.loses = min(sizes, default=capacity) < capacity
        shapes = [
            (slots, block.attention.kv_heads, size, block.attention.head_size) for block, size in zip(stack.blocks, sizes, strict=True)
        ]
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for shape in shapes]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for shape in shapes]

    @property
    def bytes_a_token(self) -> int:
        """What its keys and values take in all layers."""
        return sum(kept[0, :, 0].numel() * kept.element_size() for kept in (*self.keys, *self.values))

    def keep(self, slot: int, count: int) -> None:
        """Forget all but the first `count` tokens of a slot; 0 empties it.

        Raises `ValueError` where a window would have to show again what it has lost.
        """
        filled = int(self.filled[slot])
        if count and self.loses and filled - count > self.chunk:
            raise ValueError(f"windows keep what the last {self.chunk:,} tokens see: {filled:,} tokens cannot be cut back to {count:,}")
        for ring in self.rings:
            if count == 0:
                ring.documents[slot] = EMPTY
            elif count < filled:
                ring.documents[slot, torch.arange(count, filled, device=self.filled.device) % ring.size] = EMPTY
        self.filled[slot] = min(filled, count)

    def held(self, slot: int) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens of a slot, their positions and documents, each (1, length), of a cache that loses nothing."""
        [ring], count = self.rings, slice(int(self.filled[slot]))
        return self.tokens[slot, count][None].clone(), ring.positions[slot, count][None].clone(), ring.documents[slot, count][None].clone()

    def reorder(self, slots: Tensor, taken: Tensor) -> None:
        """Let each of `slots` hold what the slot at the same place of `taken` holds."""
        used = int(self.filled[taken].max())
        for kept in (*self.keys, *self.values):
            kept[slots, :, :used] = kept[taken, :, :used]
        for kept in (self.tokens, self.filled, *(part for ring in self.rings for part in (ring.positions, ring.documents))):
            kept[slots] = kept[taken]

    def copied(self, slot: int, start: int, end: int) -> list[Tensor]:
        """The keys and values of tokens `start` to `end` of a slot, of each layer (2, kv_heads, tokens, head_size)."""
        numbers = torch.arange(start, end, device=self.filled.device)
        return [torch.stack([kept[slot][:, numbers % kept.shape[2]] for kept in both]) for both in zip(self.keys, self.values, strict=True)]

    def paste(self, slot: int, tokens: Tensor, parts: Sequence[Tensor]) -> None:
        """Go on in a slot with tokens (length,) whose keys and values, as `copied` gave them, are known; each stands where it comes."""
        numbers = int(self.filled[slot]) + torch.arange(len(tokens), device=tokens.device)
        for both, keys, values in zip(parts, self.keys, self.values, strict=True):
            places = numbers % keys.shape[2]
            keys[slot][:, places], values[slot][:, places] = both
        for ring in self.rings:
            ring.positions[slot, numbers % ring.size] = numbers
            ring.documents[slot, numbers % ring.size] = 0
        self.tokens[slot, numbers] = tokens
        self.filled[slot] += len(tokens)

    def rows(self, slots: Tensor | None) -> Tensor:
        """The given slots, all by default."""
        return torch.arange(len(self.filled), device=self.filled.device) if slots is None else slots

    def open(
        self,
        tokens: Tensor,
        positions: Tensor,
        documents: Tensor,
        slots: Tensor | None = None,
        exact: torch.dtype = torch.float32,
        apart: bool = False,
    ) -> "Reading":
        """Take places for new tokens at `positions` with `documents`, all (batch, length), in the given slots (all by default).

        `exact` and `apart` as `Layout` has them. Raises `ValueError` when a slot has no room for them.
        """
        rows, count = self.rows(slots), positions.shape[1]
        real = (documents != PADDING).any(1)
        used = int((self.filled[rows] + count * real).max())
        if used > self.capacity:
            raise ValueError(f"the cache has {self.capacity:,} places a slot, but {used:,} are needed: make it larger or stop earlier")
        if self.loses and count > self.chunk:
            raise ValueError(f"windows are kept for reading {self.chunk:,} tokens at once, but these are {count:,}: read them in parts")
        numbers = self.filled[rows][:, None] + torch.arange(count, device=positions.device)
        at = rows[:, None]
        self.tokens[at, numbers] = tokens
        for ring in self.rings:
            ring.positions[at, numbers % ring.size] = positions
            ring.documents[at, numbers % ring.size] = documents
        self.filled[rows] += count * real
        taken = None if slots is None else slice(int(slots[0]), int(slots[0]) + 1) if len(slots) == 1 else slots
        counts = (self.filled[rows] * real).tolist() if apart else None

        def layout(ring: Ring) -> Layout:
            ends = None if counts is None else [min(count, ring.size) for count in counts]
            keys, key_documents = _seen(ring.positions, taken, used), _seen(ring.documents, taken, used)
            return Layout(positions, documents, keys, key_documents, exact=exact, ends=ends)

        return Reading(self, taken, rows, numbers, used, [layout(ring) for ring in self.rings])


def _even(size: int) -> int:
    """So many places that every slot of an array begins at a multiple of 64 bytes: products of what lies otherwise may round otherwise."""
    return -(-size // 16) * 16


def _seen(kept: Tensor, taken: Tensor | slice | None, used: int) -> Tensor:
    """The rows and places in use; a view, not a copy, of all slots and of one."""
    used = min(used, kept.shape[-1] if kept.dim() == 2 else kept.shape[2])
    part = kept[:, :used] if kept.dim() == 2 else kept[:, :, :used]
    return part if taken is None else part[taken]


class Reading(NamedTuple):
    """The cache as one forward pass sees it: the slots of its rows, and the number of each new token (batch, length)."""

    cache: Cache
    taken: Tensor | slice | None
    rows: Tensor
    numbers: Tensor
    used: int
    layouts: list[Layout]

    def layout(self, index: int) -> Layout:
        """Where the queries and the keys of a layer stand."""
        return self.layouts[self.cache.ring_of[index]]

    def layer(self, index: int) -> "LayerCache":
        return LayerCache(self, index)


class LayerCache(NamedTuple):
    """One layer's part of a reading."""

    reading: Reading
    index: int

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (batch, kv_heads, length, head_size); all that are there, (batch, kv_heads, used, head_size)."""
        reading, cache = self.reading, self.reading.cache
        keys, values = cache.keys[self.index], cache.values[self.index]
        places = reading.numbers % keys.shape[2]
        for kept, new in ((keys, k), (values, v)):
            kept[reading.rows[:, None], :, places] = new.transpose(1, 2).to(kept.dtype)
        return _seen(keys, reading.taken, reading.used), _seen(values, reading.taken, reading.used)


class Memory:
    """An encoder's states of a source: `hidden` (batch, source, width), with the document of each token, (batch, source) or none.

    Outside of training the keys and values that each layer of a decoder takes from it are computed once. Where it is known how many
    tokens each row has before its padding, that are the `lengths`.
    """

    def __init__(self, hidden: Tensor, positions: Tensor, document: Tensor | None):
        self.hidden, self.positions, self.document = hidden, positions, document
        self.lengths: list[int] | None = None
        self._kept: dict[Attention, tuple[Tensor, Tensor]] = {}

    @property
    def bytes(self) -> int:
        """What its states, and the keys and values that were computed of them, take."""
        return sum(part.numel() * part.element_size() for part in (self.hidden, *(part for kept in self._kept.values() for part in kept)))

    def keys_and_values(self, attention: "Attention") -> tuple[Tensor, Tensor]:
        """What this layer reads, each (batch, kv_heads, source, head_size)."""
        if torch.is_grad_enabled():
            return attention.keys_and_values(self.hidden)
        if attention not in self._kept:
            self._kept[attention] = attention.keys_and_values(self.hidden)
        return self._kept[attention]

    @classmethod
    def together(cls, parts: Sequence["Memory | None"]) -> "Memory":
        """One memory of all their rows, shorter ones padded; a row that is none is all padding."""
        there = [part for part in parts if part is not None]
        longest = max(part.hidden.shape[1] for part in there)

        def side(part: Tensor, dim: int, fill: int = 0) -> Tensor:
            return pad(part, (0, 0) * (part.dim() - 1 - dim) + (0, longest - part.shape[dim]), value=fill)

        def cat(own: Callable[["Memory"], Tensor], dim: int, fill: int = 0) -> Tensor:
            empty = torch.full_like(side(own(there[0]), dim)[:1], fill)
            return torch.cat([empty if part is None else side(own(part), dim, fill) for part in parts])

        def document(part: Memory) -> Tensor:
            return torch.zeros_like(part.hidden[..., 0], dtype=torch.long) if part.document is None else part.document

        made = cls(
            cat(lambda part: part.hidden, 1),
            cat(lambda part: part.positions.expand(len(part.hidden), -1), 1),
            cat(document, 1, PADDING),
        )
        made.lengths = [length for part in parts for length in ([0] if part is None else [part.hidden.shape[1]] * len(part.hidden))]
        for attention in set.intersection(*(set(part._kept) for part in there)):
            made._kept[attention] = (
                cat(lambda part: part._kept[attention][0], 2),  # noqa: B023  (called before the next attention)
                cat(lambda part: part._kept[attention][1], 2),  # noqa: B023
            )
        return made

    def rows(self, index: Tensor) -> "Memory":
        """The memory of the rows at `index` (any number of them, also repeated), as beam search needs it."""
        positions = self.positions if len(self.positions) == 1 else self.positions[index]
        chosen = Memory(self.hidden[index], positions, None if self.document is None else self.document[index])
        chosen.lengths = None if self.lengths is None else [self.lengths[row] for row in index.tolist()]
        chosen._kept = {attention: (k[index], v[index]) for attention, (k, v) in self._kept.items()}
        return chosen
