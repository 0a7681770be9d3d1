"""Documents packed into rows so that as few are cut as can be: best-fit packing (Ding et al., 2024, arXiv:2404.10830)."""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fledge.data.batches import IGNORED, PADDING, Batch, Batches, Place, draw
from fledge.data.corpus import Shards

Pattern = tuple[tuple[int, int], ...]  # what a row holds: (length, how many of it), from long to short


@dataclass(frozen=True)
class Packing:
    """What packing comes to: of so many documents `cut` lie in several rows, where rows of a stream would cut `cut_by_stream`;
    `padded` places of all rows hold nothing."""

    documents: int
    rows: int
    cut: int
    cut_by_stream: int
    tokens: int
    padded: int

    def __str__(self) -> str:
        return (
            f"best-fit packing: {self.documents:,} documents in {self.rows:,} rows; {self.cut:,} that are longer than a row are cut "
            f"(a stream would cut {self.cut_by_stream:,}), no token is cropped, {self.padded:,} places are padded "
            f"({self.padded / (self.tokens + self.padded):.2%})"
        )


class Packed(Batches):
    """Rows of `context` labels that hold whole documents, each opened by `<|endoftext|>` and seen by itself alone.

    Only a document longer than a row is cut: into full rows, and a rest that is packed as the others are. Every token is a label once
    per epoch, as in `Windows`. With each epoch other documents share a row, and (if `moving`) the rest lies at another place.
    The index takes four bytes a document.
    """

    def __init__(self, shards: Shards, context: int, batch: int, seed: int = 0, accumulate: int = 1, moving: bool = True):
        self.shards, self.context, self.moving = shards, context, moving
        lengths = np.diff(np.append(shards.starts, shards.tokens))
        rests = lengths % context
        self._long = np.flatnonzero(lengths >= context)
        self._full_ends = np.cumsum(lengths[self._long] // context)
        self._counts = np.bincount(rests, minlength=context)
        self._first = np.cumsum(self._counts) - self._counts
        self._by_rest = np.argsort(rests, kind="stable").astype(np.uint32 if len(rests) < 1 << 32 else np.int64)
        found = best_fit({length: int(self._counts[length]) for length in np.flatnonzero(self._counts).tolist() if length}, context)
        self._patterns, used = list[list[tuple[int, int, int]]](), np.zeros(context, np.int64)
        for pattern, count in found:  # the pieces of each length go to the patterns in their order
            self._patterns.append([(length, many, int(used[length])) for length, many in pattern])
            for length, many in pattern:
                used[length] += many * count
        assert (used[1:] == self._counts[1:]).all()
        self._pattern_ends = np.cumsum([count for _, count in found], dtype=np.int64)
        self._full = int(self._full_ends[-1]) if len(self._full_ends) else 0
        rows = self._full + (int(self._pattern_ends[-1]) if found else 0)
        super().__init__(rows, batch, seed, accumulate)
        borders = (shards.starts // context) != (shards.starts + lengths - 1) // context
        padded = rows * context - shards.tokens
        self.packing = Packing(len(lengths), rows, int((lengths > context).sum()), int(borders.sum()), shards.tokens, padded)
        self._moves = lru_cache(4)(self._drawn)

    @property
    def fill(self) -> float:
        return self.shards.tokens / (self.examples * self.context)

    def spans(self, epoch: int | None, row: int) -> list[tuple[int, int]]:
        """Where each piece of a row begins in the stream, and how many tokens it has."""
        if row < self._full:
            at = int(np.searchsorted(self._full_ends, row, side="right"))
            document = int(self._long[at])
            piece = row - (int(self._full_ends[at - 1]) if at else 0)
            length, rest_at = self._rest(epoch, document)
            return [(int(self.shards.starts[document]) + piece * self.context + (length if piece >= rest_at else 0), self.context)]
        row -= self._full
        at = int(np.searchsorted(self._pattern_ends, row, side="right"))
        row -= int(self._pattern_ends[at - 1]) if at else 0
        found = []
        for length, many, used in self._patterns[at]:
            moved = int(self._moves(epoch)[length]) if epoch is not None else 0
            for number in range(used + row * many, used + (row + 1) * many):
                document = int(self._by_rest[self._first[length] + (number + moved) % self._counts[length]])
                found.append((int(self.shards.starts[document]) + self._rest(epoch, document)[1] * self.context, length))
        return found

    def _drawn(self, epoch: int) -> np.ndarray:
        """(context,): how far the pieces of each length move on, in a ring."""
        return draw(self.seed, epoch, 0, "packing").integers(np.maximum(1, self._counts))

    def _rest(self, epoch: int | None, document: int) -> tuple[int, int]:
        """How long the part of a document is that fills no row, and how many full rows of it lie before."""
        end = self.shards.starts[document + 1] if document + 1 < self.shards.documents else self.shards.tokens
        full, rest = divmod(int(end - self.shards.starts[document]), self.context)
        if not full or not rest or epoch is None or not self.moving:
            return rest, full
        return rest, int(draw(self.seed, epoch, document, "rest").integers(full + 1))

    def collated(self, places: Sequence[Place]) -> Batch:
        shape = (len(places), self.context)
        tokens, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED)
        positions, document = np.zeros(shape, np.int64), np.full(shape, PADDING)
        for row, place in enumerate(places):
            at = 0
            for number, (first, length) in enumerate(self.spans(*place)):
                span = slice(at, at := at + length)
                stream = self.shards.window(first - 1, length + 1)
                tokens[row, span], labels[row, span] = stream[:-1], stream[1:]
                positions[row, span], document[row, span] = np.arange(length), number
        return Batch(tokens, labels, positions, document)


def best_fit(counts: Mapping[int, int], capacity: int) -> list[tuple[Pattern, int]]:
    """How many rows hold what, if `counts` items of each length go, the longest first, where they leave the least room.

    Rows with the same contents are one entry, and all items of one length are placed together, so that the time follows from how many
    lengths and different rows there are rather than from the items.

    >>> best_fit({5: 2, 3: 1, 2: 3}, capacity=8)
    [(((5, 1), (3, 1)), 1), (((5, 1), (2, 1)), 1), (((2, 2),), 1)]
    """
    if counts and not 0 < min(counts) <= max(counts) <= capacity:
        raise ValueError(f"items of {min(counts):,} to {max(counts):,} do not fit into rows of {capacity:,}")
    rows: dict[int, dict[Pattern, int]] = {}  # by the room that is left
    rooms: list[int] = []  # in order

    def put(room: int, pattern: Pattern, count: int) -> None:
        if room not in rows:
            insort(rooms, room)
            rows[room] = {}
        rows[room][pattern] = rows[room].get(pattern, 0) + count

    for length in sorted(counts, reverse=True):
        left = counts[length]
        while left:
            at = bisect_left(rooms, length)
            if at == len(rooms):
                room, pattern, count = capacity, (), left
            else:
                room = rooms[at]
                pattern, count = rows[room].popitem()
                if not rows[room]:
                    del rows[room], rooms[at]
            each = room // length
            filled = min(count, left // each)
            if filled:  # a row takes as many as fit before another row of the same room takes any
                put(room - each * length, (*pattern, (length, each)), filled)
                left -= filled * each
            if left and filled < count:
                put(room - left * length, (*pattern, (length, left)), 1)
                left, filled = 0, filled + 1
            if pattern and filled < count:
                put(room, pattern, count - filled)
    return [(pattern, count) for room in rooms for pattern, count in rows[room].items()]
