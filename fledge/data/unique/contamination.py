"""Documents that hold a piece of an evaluation: 13 words in a row that also stand in one of its texts.

13-grams are those of Brown and others 2020 (GPT-3), appendix C, which also takes shorter texts whole, down to 8 words.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from fledge.data.documents import Document
from fledge.data.sources import find, read
from fledge.data.tables import counted, is_table, rows
from fledge.data.unique.words import Words, batches, grams, grams_at, words

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


@dataclass(frozen=True, eq=False)
class Contamination:
    """The word n-grams of evaluation texts.

    `hashes`: sorted, uint64; `owners` (int32): for each the number of its item among `items` (file, line); `lengths`: how many words the
    grams have, the shortest first; `heads`: sorted, the hashes of as many first words of each gram as the shortest has; `short`: how many
    items are too short to be looked for.
    """

    n: int
    lengths: tuple[int, ...]
    hashes: np.ndarray
    heads: np.ndarray
    owners: np.ndarray
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
        found, parts = list[np.ndarray](), list[np.ndarray]()
        owners, items, sizes, short = list[int](), list[tuple[str, int | None]](), set[int](), 0
        for file, line, texts in every:
            item = words(texts)
            if (np.diff(item.offsets) < least).all():
                item = words(["\n".join(texts)])
            long = [(first, last) for first, last in pairwise(item.offsets.tolist()) if last - first >= least]
            for first, last in long:
                size = min(n, last - first)
                found += [hashes for _, hashes in grams(item.hashes[first:last], (size,))]
                parts.append(item.hashes[first:last])
                owners.append(len(items))
                sizes.add(size)
            short += not long
            items.append((file, line))
        if not found:
            raise ValueError(f"the evaluation files hold no text of {least} words or more to look for")
        hashes, first = np.unique(np.concatenate(found), return_index=True)
        lengths = tuple(sorted(sizes))
        heads = [hashes[: len(some)] for part, some in zip(parts, found, strict=True) for _, hashes in grams(part, lengths[:1])]
        owner = np.repeat(np.array(owners, np.int32), [len(some) for some in found])[first]
        return cls(n, lengths, hashes, np.unique(np.concatenate(heads)), owner, tuple(items), short)

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
        results: list[Contaminated | None] = []
        for batch in batches(texts):
            found = words(texts[batch])
            first = self._first(found)
            results += [self._said(found, text, first[text]) if text in first else None for text in range(len(found.texts))]
        return results

    def _first(self, found: Words) -> dict[int, tuple[int, int, int]]:
        """By text: the word with which its first shared gram begins, that gram's size (the longest) and its number among `hashes`."""
        likely = [np.zeros(0, np.int64)]
        for start in range(0, len(found.hashes), BLOCK):
            block = found.hashes[start : start + BLOCK + self.lengths[0] - 1]
            for _, hashes in grams(block, self.lengths[:1]):
                passed = np.flatnonzero(self._sieve[hashes >> self._shift])
                likely.append(passed[_places(self.heads, hashes[passed])[1]] + start)
        firsts = np.concatenate(likely)
        texts = np.searchsorted(found.offsets, firsts, side="right") - 1
        hits: dict[int, tuple[int, int, int]] = {}
        for size in reversed(self.lengths):
            inside = firsts + size <= found.offsets[texts + 1]
            hashes = grams_at(found.hashes, firsts[inside], size)
            at, equal = _places(self.hashes, hashes)
            for text, first, number in zip(*(some[equal].tolist() for some in (texts[inside], firsts[inside], at)), strict=True):
                if text not in hits or first < hits[text][0]:
                    hits[text] = (first, size, number)
        return hits

    def _said(self, found: Words, text: int, hit: tuple[int, int, int]) -> Contaminated:
        first, size, number = hit
        file, line = self.items[self.owners[number]]
        return Contaminated(file, line, found.said(text, first, first + size - 1))

    @property
    def _shift(self) -> np.uint64:
        return np.uint64(64 - min(LIGHT, max(16, len(self.heads).bit_length() + 4)))

    @cached_property
    def _sieve(self) -> np.ndarray:
        """Flags by the leading bits of the `heads`: they spare the search for nearly every gram of a clean text."""
        flags = np.zeros(1 << (64 - int(self._shift)), bool)
        flags[self.heads >> self._shift] = True
        return flags

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_sieve"}


def _places(ordered: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in an ordered array each hash would stand, and whether it does."""
    at = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    return at, ordered[at] == hashes


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
