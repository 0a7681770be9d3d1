"""Numbers of documents that lie in many files, one file a piece, as if they were one long array."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Rows:
    """`.npy` files or arrays, one for each piece, in the order of the pieces; a row's global number counts over all of them.

    Files are opened when they are read and only mapped, so that this is small to send to another process.
    """

    parts: tuple[Path | np.ndarray, ...]

    @cached_property
    def starts(self) -> np.ndarray:
        """(pieces + 1,) int64: the global number of each piece's first row, and how many there are in all."""
        return np.cumsum([0, *(len(_opened(part)) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def each(self) -> Iterator[tuple[int, np.ndarray]]:
        """Each piece's rows behind the global number of its first."""
        for start, part in zip(self.starts[:-1], self.parts, strict=True):
            yield int(start), _opened(part)

    def columns(self, first: int, last: int) -> np.ndarray:
        """Columns `first` to `last` (without it) of all rows."""
        return np.concatenate([np.ascontiguousarray(part[:, first:last]) for _, part in self.each()])

    def at(self, numbers: np.ndarray) -> np.ndarray:
        """The rows with these global numbers, in the same order."""
        pieces = np.searchsorted(self.starts, numbers, side="right") - 1
        found = np.empty((len(numbers), *_opened(self.parts[0]).shape[1:]), _opened(self.parts[0]).dtype)
        for piece in np.unique(pieces):
            here = np.flatnonzero(pieces == piece)
            found[here] = _opened(self.parts[piece])[numbers[here] - self.starts[piece]]
        return found


def _opened(part: Path | np.ndarray) -> np.ndarray:
    return part if isinstance(part, np.ndarray) else np.load(part, mmap_mode="r", allow_pickle=False)
