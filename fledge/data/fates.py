"""What becomes of each document of the staged parts, and where each of them comes from."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from fledge.data.pieces import Part
from fledge.data.unique.contamination import Contaminated

TRAIN, VALIDATION, CUT, DUPLICATE, NEAR, CONTAMINATED, REPEATED = range(7)
REASONS = {DUPLICATE: "duplicate", NEAR: "near duplicate", CONTAMINATED: "contaminated", REPEATED: "repeated paragraphs"}


@dataclass(frozen=True)
class Shortened:
    """Of the documents that are kept: how many lost repeated paragraphs, how many paragraphs, how many bytes."""

    documents: int = 0
    paragraphs: int = 0
    bytes: int = 0


@dataclass
class Fates:
    """What becomes of each document: `of` each part in their order; `cuts`: of a part's document the byte where a held-out end begins.

    `originals`: (duplicates, 2) int64, in order, each document that repeats another, exactly or nearly, and that one, by their
    numbers over all parts; `groups`: (documents,) int64, for each that is compared with others the first of those that it nearly
    equals, -1 for the rest, None where near duplicates are not looked for; `contaminated`: what is shared with evaluation files.
    """

    of: list[np.ndarray]
    cuts: dict[tuple[int, int], int] = field(default_factory=dict)
    originals: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    groups: np.ndarray | None = None
    contaminated: dict[int, Contaminated] = field(default_factory=dict)
    shortened: Shortened = Shortened()

    def original(self, number: int) -> int:
        """Which document this one repeats."""
        return int(self.originals[np.searchsorted(self.originals[:, 0], number), 1])


@dataclass(frozen=True)
class TextOf:
    """The text of each document by its number over all parts, and where it comes from."""

    parts: tuple[Part, ...]

    def __call__(self, number: int) -> str:
        return self._read(number).decode()

    def beginning(self, number: int, characters: int) -> str:
        """Its first characters, in one line."""
        return " ".join(self._read(number, 4 * characters).decode(errors="ignore").split())[:characters]

    def place(self, number: int) -> str:
        """Its file and line, to be read by people."""
        part, at = self._found(number)
        return _places(part)(at)

    def _found(self, number: int) -> tuple[Part, int]:
        """The part that holds a document, and its number there."""
        at = bisect_right(_ends(self.parts), number)
        return self.parts[at], number - (_ends(self.parts)[at - 1] if at else 0)

    def _read(self, number: int, most: int | None = None) -> bytes:
        part, at = self._found(number)
        start, end = _borders(part)[at : at + 2].tolist()
        with open(f"{part.path}.text", "rb") as stream:
            stream.seek(start)
            return stream.read(end - start if most is None else min(most, end - start))


@lru_cache(1)
def _ends(parts: tuple[Part, ...]) -> list[int]:
    return np.cumsum([part.documents for part in parts]).tolist()


@lru_cache(64)
def _borders(part: Part) -> np.ndarray:
    """(documents + 1,) where each text begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(part.records()["bytes"])])


@lru_cache(16)
def _places(part: Part) -> Callable[[int], str]:
    """Where each document of a part comes from."""
    names, records = part.names["sources"], part.records()
    return lambda at: part.place(records[at], names)
