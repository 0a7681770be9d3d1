"""What a model has already read: a decoder's keys and values in slots that fill and empty independently, an encoder's states."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fledge.arch import Stack
from fledge.model.view import EMPTY, PADDING

if TYPE_CHECKING:
    from fledge.model.attention import Attention


class Cache:
    """Room for `capacity` tokens in each of `slots` rows, kept with their positions and documents; an empty place is in no document.

    `filled` (slots,) counts the places in use. A forward pass opens the cache once, and each layer extends it by its own
    keys and values at the same places.
    """

    def __init__(self, stack: Stack, slots: int, capacity: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        self.capacity = capacity
        self.tokens = torch.zeros(slots, capacity, dtype=torch.long, device=device)
        self.positions = torch.zeros_like(self.tokens)
        self.documents = torch.full((slots, capacity), EMPTY, device=device)
        self.filled = torch.zeros(slots, dtype=torch.long, device=device)
        shapes = [(slots, block.attention.kv_heads, capacity, block.attention.head_size) for block in stack.blocks]
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for shape in shapes]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for shape in shapes]

    def keep(self, slot: int, places: int) -> None:
        """Forget all but the first `places` tokens of a slot; 0 empties it."""
        self.documents[slot, places:] = EMPTY
        self.filled[slot] = min(int(self.filled[slot]), places)

    def empty(self, slot: int) -> tuple[Tensor, Tensor, Tensor]:
        """Forget all of a slot: the tokens that it held, their positions and documents, each (1, length)."""
        held = slice(int(self.filled[slot]))
        found = (self.tokens[slot, held][None], self.positions[slot, held][None], self.documents[slot, held].clone()[None])
        self.keep(slot, 0)
        return found

    def reorder(self, slots: Tensor, taken: Tensor) -> None:
        """Let each of `slots` hold what the slot at the same place of `taken` holds."""
        used = int(self.filled[taken].max())
        for kept in (*self.keys, *self.values):
            kept[slots, :, :used] = kept[taken, :, :used]
        for kept in (self.tokens, self.positions, self.documents, self.filled):
            kept[slots] = kept[taken]

    def rows(self, slots: Tensor | None) -> Tensor:
        """The given slots, all by default."""
        return torch.arange(len(self.filled), device=self.filled.device) if slots is None else slots

    def open(self, tokens: Tensor, positions: Tensor, documents: Tensor, slots: Tensor | None = None) -> "Reading":
        """Take places for new tokens at `positions` with `documents`, all (batch, length), in the given slots (all by default).

        Raises `ValueError` when a slot has no room for them.
        """
        rows = self.rows(slots)
        count = positions.shape[1]
        used = int(self.filled[rows].max()) + count
        if used > self.capacity:
            raise ValueError(f"the cache has {self.capacity:,} places a slot, but {used:,} are needed: make it larger or stop earlier")
        places = self.filled[rows][:, None] + torch.arange(count, device=positions.device)
        self.tokens[rows[:, None], places] = tokens
        self.positions[rows[:, None], places] = positions
        self.documents[rows[:, None], places] = documents
        self.filled[rows] += count
        return Reading(self, slots, rows, places, used)


class Reading(NamedTuple):
    """The cache as one forward pass sees it."""

    cache: Cache
    slots: Tensor | None
    rows: Tensor
    places: Tensor
    used: int

    def seen(self, kept: Tensor) -> Tensor:
        """The rows and places in use; a view, not a copy, when every slot takes part."""
        used = kept[:, :, : self.used] if kept.dim() == 4 else kept[:, : self.used]
        return used if self.slots is None else used[self.slots]

    def layer(self, index: int) -> "LayerCache":
        return LayerCache(self, index)


class LayerCache(NamedTuple):
    """One layer's part of a reading."""

    reading: Reading
    index: int

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (batch, kv_heads, length, head_size); all that are there, (batch, kv_heads, used, head_size)."""
        reading, cache = self.reading, self.reading.cache
        for kept, new in ((cache.keys[self.index], k), (cache.values[self.index], v)):
            kept[reading.rows[:, None], :, reading.places] = new.transpose(1, 2).to(kept.dtype)
        return reading.seen(cache.keys[self.index]), reading.seen(cache.values[self.index])


class Memory:
    """An encoder's states of a source: `hidden` (batch, source, width), with the document of each token, (batch, source) or none.

    Outside of training the keys and values that each layer of a decoder takes from it are computed once.
    """

    def __init__(self, hidden: Tensor, positions: Tensor, document: Tensor | None):
        self.hidden, self.positions, self.document = hidden, positions, document
        self._kept: dict[Attention, tuple[Tensor, Tensor]] = {}

    def keys_and_values(self, attention: "Attention") -> tuple[Tensor, Tensor]:
        """What this layer reads, each (batch, kv_heads, source, head_size)."""
        if torch.is_grad_enabled():
            return attention.keys_and_values(self.hidden)
        if attention not in self._kept:
            self._kept[attention] = attention.keys_and_values(self.hidden)
        return self._kept[attention]

    @classmethod
    def together(cls, parts: Sequence["Memory"]) -> "Memory":
        """One memory of all their rows, shorter ones padded."""
        longest = max(part.hidden.shape[1] for part in parts)

        def side(x: Tensor, rows: int, fill: int) -> Tensor:
            room = (0, 0) * (x.dim() - 2) + (0, longest - x.shape[1])
            return pad(x.expand(rows, *x.shape[1:]), room, value=fill)

        documents = [torch.zeros_like(part.hidden[..., 0], dtype=torch.long) if part.document is None else part.document for part in parts]
        sizes = [len(part.hidden) for part in parts]
        return cls(
            torch.cat([side(part.hidden, size, 0) for part, size in zip(parts, sizes, strict=True)]),
            torch.cat([side(part.positions, size, 0) for part, size in zip(parts, sizes, strict=True)]),
            torch.cat([side(document, size, PADDING) for document, size in zip(documents, sizes, strict=True)]),
        )

    def rows(self, index: Tensor) -> "Memory":
        """The memory of the rows at `index` (any number of them, also repeated), as beam search needs it."""
        positions = self.positions if len(self.positions) == 1 else self.positions[index]
        chosen = Memory(self.hidden[index], positions, None if self.document is None else self.document[index])
        chosen._kept = {attention: (k[index], v[index]) for attention, (k, v) in self._kept.items()}
        return chosen
