"""Texts -> hashed words and word n-grams: what near duplicates and contamination are compared by, at numpy's speed.

A word is a run of letters, digits and their marks, whatever its case and Unicode composition; punctuation, white space and
underscores part words, so that code is its identifiers, keywords and numbers. Where a script writes no spaces (Han, kana, Thai, Lao,
Khmer, Burmese, Tibetan) each character is a word.
"""

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

CHUNK = 1 << 16  # characters that are hashed at once: their arrays stay in a core's own cache
BATCH, MANY = 1 << 15, 128  # characters and number of short texts that are hashed together
MULTIPLIER = 0x9E3779B97F4A7C15  # odd, hence with an inverse modulo 2**64
SPACELESS = (
    (0x0E00, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3041, 0x30FF), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
LETTER, ALONE = 1, 2


@dataclass(frozen=True)
class Words:
    """The words of several texts, one after another.

    `hashes` (words,) uint64; `begins` and `ends` (words,) int64, where each stands in `texts[i]`, the folded text that it belongs to;
    `offsets` (texts + 1,) int64: the words of text i are those from `offsets[i]` to `offsets[i + 1]`.
    """

    texts: tuple[str, ...]
    hashes: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    offsets: np.ndarray

    def shingles(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of each text's `size`-grams (uint64, one text after another, repeats included) and their offsets (texts + 1,).

        A text of fewer words has one gram of all its words, a text without words none.
        """
        firsts, lengths = self.offsets[:-1], np.diff(self.offsets)
        kept = np.zeros(len(self.hashes), bool)
        found = np.zeros(len(self.hashes), np.uint64)
        for count, hashes in grams(self.hashes, range(1, size + 1)):
            if count < size:
                short = firsts[lengths == count]
                found[short], kept[short] = hashes[short], True
            else:
                whole = np.repeat(lengths >= size, lengths)
                whole[(self.offsets[1:, None] - np.arange(1, size))[lengths >= size]] = False
                at = np.flatnonzero(whole)
                found[at], kept[at] = hashes[at], True
        counts = np.where(lengths >= size, lengths - size + 1, lengths > 0)
        return found[kept], np.concatenate([[0], np.cumsum(counts)])

    def said(self, text: int, first: int, last: int) -> str:
        """Words `first` to `last` (counted over all texts, the last one included) of `text`, as they stand there in lower case."""
        return self.texts[text][self.begins[first] : self.ends[last]]


def words(texts: Sequence[str]) -> Words:
    """The words of each text, hashed.

    >>> words(["Hello, world!", "hello  World"]).offsets.tolist()
    [0, 2, 4]
    """
    folded = tuple(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()) for text in texts)
    lengths = np.fromiter((len(text) + 1 for text in folded), np.int64, len(folded))
    places = np.concatenate([[0], np.cumsum(lengths)])
    found = list(_hashed("\n".join(folded)))
    hashes, begins, ends = (np.concatenate(column) for column in zip(*found, strict=True))
    offsets = np.searchsorted(begins, places)
    shift = np.repeat(places[:-1], np.diff(offsets))
    return Words(folded, hashes, begins - shift, ends - shift, offsets)


def batches(texts: Sequence[str]) -> Iterator[slice]:
    """Runs of texts to be hashed together: up to `MANY`, of up to `BATCH` characters unless one is longer by itself."""
    first, size = 0, 0
    for number, text in enumerate(texts):
        if number > first and (size + len(text) > BATCH or number - first == MANY):
            yield slice(first, number)
            first, size = number, 0
        size += len(text)
    if first < len(texts):
        yield slice(first, len(texts))


def grams(hashes: np.ndarray, sizes: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """For each size, ascending, the hashes of all n-grams of so many words: (words - size + 1,) uint64, whatever text they lie in."""
    sums = hashes.copy()
    for size in range(1, max(sizes) + 1):
        if size > 1:
            sums = sums[:-1]
            sums *= np.uint64(MULTIPLIER)
            sums += hashes[size - 1 :]
        if size in sizes:
            yield size, mixed(sums)


def grams_at(hashes: np.ndarray, firsts: np.ndarray, size: int) -> np.ndarray:
    """Of all those n-grams of `size` words only the ones that begin with these words."""
    sums = np.zeros(len(firsts), np.uint64)
    for place in range(size):
        sums = sums * np.uint64(MULTIPLIER) + hashes[firsts + place]
    return mixed(sums)


def mixed(numbers: np.ndarray) -> np.ndarray:
    """Each 64-bit number as another that looks random (the finaliser of SplitMix64, Steele and others 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _hashed(text: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Hashes, begins and ends of the words, chunk by chunk; a chunk ends between two words unless one word is longer than it.

    The hash of a word is the sum of its mixed characters times powers of an odd number; all words at once by one cumulative sum, from
    which the power of the place where a word begins is divided out again.
    """
    kinds, powers, inverses = _kinds(), _powers(MULTIPLIER, CHUNK), _powers(pow(MULTIPLIER, -1, 1 << 64), CHUNK)
    at = 0
    while True:
        codes = np.frombuffer(text[at : at + CHUNK].encode("utf-32-le", "surrogatepass"), "<u4")
        kind = kinds[codes]
        last = at + len(codes) >= len(text)
        if not last and kind[-1] == LETTER:
            parting = np.flatnonzero(kind != LETTER)
            kind = kind[: parting[-1] + 1] if len(parting) else kind
            codes = codes[: len(kind)]
        letter, alone = kind == LETTER, kind == ALONE
        begins, ends = alone.copy(), alone.copy()
        begins[:1] |= letter[:1]
        begins[1:] |= letter[1:] & ~letter[:-1]
        ends[-1:] |= letter[-1:]
        ends[:-1] |= letter[:-1] & ~letter[1:]
        begin, end = np.flatnonzero(begins), np.flatnonzero(ends) + 1
        sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum(mixed(codes + np.uint64(1)) * powers[: len(codes)], out=sums[1:])
        yield mixed((sums[end] - sums[begin]) * inverses[begin]), begin + at, end + at
        at += len(codes)
        if last:
            return


@cache
def _kinds() -> np.ndarray:
    """(0x110000,) uint8: 0 for what parts words, `LETTER`, or `ALONE` for a character that is a word by itself."""
    kinds = np.zeros(0x110000, np.uint8)
    kinds[:0x20000] = [unicodedata.category(chr(code))[0] in "LNM" for code in range(0x20000)]
    for first, last in SPACELESS:
        kinds[first : last + 1] = np.where(kinds[first : last + 1] | (first >= 0x20000), ALONE, 0)
    return kinds


@cache
def _powers(base: int, count: int) -> np.ndarray:
    """(count,) uint64: `base` to the power of 0, 1, 2, ... modulo 2**64."""
    return np.concatenate([[np.uint64(1)], np.cumprod(np.full(count - 1, base, np.uint64))])
