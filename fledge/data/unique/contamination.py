"""Documents that hold a piece of an evaluation: 13 words in a row that also stand in one of its texts.

13-grams are those of Brown and others 2020 (GPT-3), appendix C, which also takes shorter texts whole, down to 8 words.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fledge.data.documents import Document
from fledge.data.sources import find, read
from fledge.data.tables import counted, is_table, rows
from fledge.data.unique.words import Words, batches, grams, words

LEAST = 8  # words of a text that is shorter than a gram, below which it is found everywhere
LIGHT = 26  # bits of the sieve at most: 64 MB
BLOCK = 1 << 15  # words whose grams are looked for at once


@dataclass(frozen=True)
class Contaminated:
    """Where a document shares words with an evaluation: its file and line (None for a whole file), and the words of the document."""

    file: str
    line: int | None
    words: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}, line {self.line}"
        return f"shares {self.words!r} with {place}"


@dataclass(frozen=True)
class Contamination:
    """The word n-grams of evaluation texts: sorted `hashes` (uint64), and for each the number of its item in `items` (file, line).

    `lengths`: how many words the grams have, the shortest first; `short`: items too short to be looked for.
    """

    n: int
    lengths: tuple[int, ...]
    hashes: np.ndarray
    item: np.ndarray
    items: tuple[tuple[str, int | None], ...]
    short: int

    @classmethod
    def of(cls, sources: Sequence[str], n: int = 13) -> "Contamination":
        """The grams of evaluation files in any format that is read: every text of a row counts, each on its own.

        A text of fewer than `n` words is looked for as a whole if it has 8 or more; where no text of a row has, its texts one after
        another are. Raises `ValueError` for files that cannot be read or hold nothing to look for, and as reading does.
        """
        return cls.of_texts(_texts(sources), n)

    @classmethod
    def of_texts(cls, every: Iterable[tuple[str, int | None, Sequence[str]]], n: int = 13) -> "Contamination":
        """The same of items that are at hand: for each its file, line and texts."""
        if n < 1:
            raise ValueError(f"contamination is looked for by n-grams of n words, and n is {n}: the usual is 13")
        least = min(LEAST, n)
        hashes, owners, lengths, items, short = (
            [np.zeros(0, np.uint64)],
            [np.zeros(0, np.int32)],
            set[int](),
            list[tuple[str, int | None]](),
            0,
        )
        for file, line, texts in every:
            found = words(texts)
            if (np.diff(found.offsets) < least).all():
                found = words(["\n".join(texts)])
            sizes = np.minimum(np.diff(found.offsets), n)
            short += bool((sizes < least).all())
            for text, size in enumerate(sizes.tolist()):
                if size >= least:
                    ((_, made),) = grams(found.hashes[found.offsets[text] : found.offsets[text + 1]], (size,))
                    hashes.append(made)
                    owners.append(np.full(len(made), len(items), np.int32))
                    lengths.add(size)
            items.append((file, line))
        if not lengths:
            raise ValueError(f"the evaluation files hold no text of {least} words or more to look for")
        whole, first = np.unique(np.concatenate(hashes), return_index=True)
        return cls(n, tuple(sorted(lengths)), whole, np.concatenate(owners)[first], tuple(items), short)

    def said(self) -> str:
        """A sentence to print."""
        files = len({file for file, _ in self.items})
        said = f"{counted(len(self.items), 'evaluation item')} of {counted(files, 'file')}: {len(self.hashes):,} {self.n}-grams to look for"
        return said + (f"; {counted(self.short, 'item')} too short to look for" if self.short else "")

    def found(self, text: str) -> Contaminated | None:
        """Where the first words of `text` that stand in an evaluation come from, None for a clean text."""
        return self.found_each([text])[0]

    def found_each(self, texts: Sequence[str]) -> list[Contaminated | None]:
        """`found` for each text: quicker than one by one where they are short."""
        results: list[Contaminated | None] = [None] * len(texts)
        for batch in batches(texts):
            self._find(words(texts[batch]), results, batch.start)
        return results

    def _find(self, found: Words, results: list[Contaminated | None], shift: int) -> None:
        for start in range(0, len(found.hashes), BLOCK):
            block = found.hashes[start : start + BLOCK + self.lengths[-1] - 1]
            for size, hashes in grams(block, self.lengths):
                here = np.flatnonzero(self._sieve[hashes >> self._shift])
                at = np.minimum(np.searchsorted(self.hashes, hashes[here]), len(self.hashes) - 1)
                equal = self.hashes[at] == hashes[here]
                for first, number in zip((here[equal] + start).tolist(), at[equal].tolist(), strict=True):
                    text = int(np.searchsorted(found.offsets, first, side="right")) - 1
                    if results[text + shift] is None and first + size <= found.offsets[text + 1]:
                        results[text + shift] = Contaminated(*self.items[self.item[number]], found.said(text, first, first + size - 1))

    @property
    def _shift(self) -> np.uint64:
        return np.uint64(64 - min(LIGHT, max(16, len(self.hashes).bit_length() + 4)))

    @cached_property
    def _sieve(self) -> np.ndarray:
        """Flags by the leading bits of the hashes: it spares the search for nearly every gram of a clean text."""
        flags = np.zeros(1 << (64 - int(self._shift)), bool)
        flags[self.hashes >> self._shift] = True
        return flags

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_sieve"}


def _texts(sources: Sequence[str]) -> Iterator[tuple[str, int | None, list[str]]]:
    """File, line and texts of each item."""
    for path in (given.path for given in find(sources)):
        if is_table(path):
            for row in rows(path):
                if row.problem:
                    raise ValueError(f"{path}, line {row.line}: {row.problem}")
                yield path, row.line, list(_strings(row.values))
        else:
            for document in read([path]):
                if isinstance(document, Document):
                    yield path, document.line, [document.text]


def _strings(value: Any) -> Iterator[str]:
    """Every text inside of a row, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
