"""Documents that are nearly equal: MinHash signatures, candidates by bands, each verified by the exact Jaccard similarity.

MinHash: Broder 1997; bands: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4. The signatures are rensa's
(fast similarity sketching, Dahlgaard, Knudsen and Thorup 2017).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from itertools import pairwise
from math import ceil, log1p
from typing import Any, Literal

import numpy as np

from fledge.data.files import extra
from fledge.data.unique.exact import Spread
from fledge.data.unique.rows import Rows
from fledge.data.unique.words import BATCH, batches, mixed, words

EMPTY = 0xFFFFFFFF  # each number of the signature of a text without words
QUIET = 1 << 15  # shingles for which, and for fewer than 256 texts, rensa starts no threads: a process that forked would hang in them
WAVE = 8  # bands whose candidates are verified before the next bands are looked at
REACH = 32  # neighbours in a bucket that each document is compared with
PAIRS = 4096  # of one task of verification
HELD = 1 << 24  # shingles held at once while pairs are verified: 128 MB
GATHERED = 1 << 15  # pairs whose signatures are held at once: 40 MB
DOUBT = 4  # standard errors below the threshold from which on an estimate is taken at its word


@dataclass(frozen=True)
class Near:
    """What counts as nearly equal: texts whose sets of `shingle`-word n-grams have a Jaccard similarity of `threshold` or more.

    Of such pairs the share `recall` is found even where they are just that similar, of more similar ones more; `permutations` is how
    many numbers a signature may have for it. Raises `ValueError` where so many do not suffice.
    """

    threshold: float = 0.45
    shingle: int = 3
    recall: float = 0.99
    permutations: int = 160
    seed: int = 0

    def __post_init__(self):
        for name in ("threshold", "recall"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"the {name} of near duplicates is {getattr(self, name)}, but it lies between 0 and 1")
        if self.shingle < 1 or self.permutations < 1:
            raise ValueError(
                f"near duplicates need a shingle of 1 word or more and 1 permutation or more, not {self.shingle} and {self.permutations}"
            )
        if self.bands_of(1) > self.permutations:
            raise ValueError(
                f"{self.permutations} permutations do not find {self.recall:.0%} of pairs of similarity {self.threshold}: "
                f"take {self.bands_of(1)} or more, or a smaller recall"
            )

    def bands_of(self, rows: int) -> int:
        """How many bands of so many rows find the share `recall` of pairs that are just similar enough."""
        return ceil(log1p(-self.recall) / log1p(-(self.threshold**rows)))

    @cached_property
    def rows(self) -> int:
        """Numbers of a band: the most that `permutations` allow, since each more spares comparisons of texts that are not similar."""
        rows = 1
        while (rows + 1) * self.bands_of(rows + 1) <= self.permutations:
            rows += 1
        return rows

    @cached_property
    def bands(self) -> int:
        return self.bands_of(self.rows)

    def found(self, similarity: float) -> float:
        """The share of pairs of this similarity that have a band in common: `1 - (1 - s**rows)**bands`."""
        return 1 - (1 - similarity**self.rows) ** self.bands

    def said(self) -> str:
        """A sentence to print."""
        expected = ", ".join(f"{self.found(at):.2%} at {at}" for at in sorted({self.threshold, 0.6, 0.8}))
        return (
            f"near duplicates: {self.shingle}-word shingles, exact Jaccard similarity of {self.threshold} or more; "
            f"MinHash with {self.bands} bands × {self.rows} rows, which finds {expected}"
        )

    def facts(self) -> dict[str, Any]:
        """What signatures depend on, to be part of the name under which they are kept."""
        library = _rensa()
        return {
            "shingle": self.shingle, "bands": self.bands, "rows": self.rows, "seed": self.seed,
            "rensa": version("rensa"), "algorithm": int(library.RMinHash.ALGORITHM_VERSION),
        }  # fmt: skip

    def signatures(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, bands × rows) uint32; of a text without words all are `EMPTY`. Quickest for many texts at once.

        Raises `ValueError` with the command to type when rensa is not installed.
        """
        digest, width = _rensa().RMinHash.digest_matrix_from_flat_token_hashes, self.bands * self.rows

        def rows(grams: np.ndarray, offsets: np.ndarray) -> np.ndarray:
            return np.array(digest(grams, offsets.astype(np.uint64), width, self.seed).to_rows(), np.uint32)

        found = [np.zeros((0, width), np.uint32)]
        for batch in batches(texts):
            grams, offsets = words(texts[batch]).shingles(self.shingle)
            if len(grams) <= QUIET:
                found.append(rows(grams, offsets))
            else:  # one long text: the signature of a union is the least of its parts'
                parts = [grams[at : at + QUIET] for at in range(0, len(grams), QUIET)]
                found.append(np.min([rows(part, np.array([0, len(part)])) for part in parts], axis=0))
        return np.concatenate(found)

    def shingles(self, texts: Sequence[str]) -> list[np.ndarray]:
        """For each text the sorted set of its shingles' hashes, uint64."""
        sets = []
        for batch in batches(texts):
            grams, offsets = words(texts[batch]).shingles(self.shingle)
            sets += [np.unique(grams[first:last]) for first, last in pairwise(offsets)]
        return sets


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """The share of common elements among all of two sorted sets; two empty ones have nothing in common."""
    if not len(a) or not len(b):
        return 0.0
    common = int((a[np.minimum(np.searchsorted(a, b), len(a) - 1)] == b).sum())
    return common / (len(a) + len(b) - common)


def near_groups(
    signatures: Rows,
    text_of: Callable[[int], str],
    near: Near,
    roots: np.ndarray | None = None,
    spread: Spread = map,
    wave: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """(documents,) int64: for each document the first of its group; groups are the connected components of verified pairs.

    `signatures`: (documents, bands × rows) uint32, those of `near.signatures`, a part for each piece; `text_of(number)` gives a text
    again and is asked in ascending order as far as possible; `roots`: where other groups stand already (exact duplicates), only the
    first of each is looked at; `wave(done, total)` is told how far it is.

    Documents with a band in common are candidates. First each is compared with the first of its bucket, then with those around it: in
    a bucket of up to `REACH` + 1 every pair is compared unless its documents are connected already, so that nothing is lost by the
    order. Of a larger bucket, one document of each group so far is compared with the `REACH` next of other groups, sorted by their
    next band: work grows with the number of documents, not with its square. A pair is compared by its texts unless its signatures
    differ too much to be (4 standard errors). The result follows from the documents and their order alone: bands and chunks of pairs
    are tasks of their own, whose number does not depend on who carries them out.
    """
    every = np.arange(len(signatures))
    roots = every.copy() if roots is None else np.array(roots)
    among = np.flatnonzero((roots == every) & (signatures.columns(0, 1)[:, 0] != EMPTY))
    waves = [(first, star) for star in (True, False) for first in range(0, near.bands, WAVE)]
    for done, (first, star) in enumerate(waves):
        bands = range(first, min(first + WAVE, near.bands))
        found = list(spread(partial(band_pairs, signatures, near, roots, among, star), bands))
        pairs = _distinct(np.concatenate(found))
        chunks = [pairs[at : at + PAIRS] for at in range(0, len(pairs), PAIRS)]
        for chunk, equal in zip(chunks, spread(partial(verified, text_of, near), chunks), strict=True):
            join(roots, chunk[equal])
        wave(done + 1, len(waves))
    return roots


def band_pairs(signatures: Rows, near: Near, roots: np.ndarray, among: np.ndarray, star: bool, band: int) -> np.ndarray:
    """(candidates, 2) int64, the smaller number first: pairs of different groups whose signatures agree in this band.

    `among`: the numbers of the documents that count; `star`: each is paired with the first of its bucket, otherwise with those near it,
    as `near_groups` says.
    """
    keys = _keys(signatures, near, band)[among]
    order = np.argsort(keys, kind="stable")
    begins, sizes = _runs(keys[order])
    shared = np.repeat(sizes > 1, sizes)
    order = order[shared]
    begins, sizes = _runs(keys[order])
    if star:
        return _likely(signatures, near, roots, np.stack([among[np.repeat(order[begins], sizes)], among[order]], 1))
    large = np.repeat(sizes > REACH + 1, sizes)
    if large.any():
        following = _keys(signatures, near, (band + 1) % near.bands)[among]
        order = np.concatenate([order[~large], _one_of_each(order[large], keys, roots[among], following)])
    keys, numbers, found = keys[order], among[order], [np.zeros((0, 2), np.int64)]
    for lag in range(1, min(REACH + 1, len(order))):
        same = np.flatnonzero(keys[lag:] == keys[:-lag])
        if not len(same):
            break
        found.append(_likely(signatures, near, roots, np.stack([numbers[same], numbers[same + lag]], 1)))
    return np.concatenate(found)


def verified(text_of: Callable[[int], str], near: Near, pairs: np.ndarray) -> np.ndarray:
    """(pairs,) bool: whose texts have a Jaccard similarity of `near.threshold` or more."""
    sets: dict[int, np.ndarray] = {}
    held = 0
    for texts, numbers in _fetched(text_of, np.unique(pairs)):
        sets |= zip(numbers, near.shingles(texts), strict=True)
        held += sum(len(sets[number]) for number in numbers)
        if held > HELD and len(pairs) > 1:
            return np.concatenate([verified(text_of, near, half) for half in np.array_split(pairs, 2)])
    return np.array([jaccard(sets[a], sets[b]) >= near.threshold for a, b in pairs.tolist()], bool)


def join(roots: np.ndarray, pairs: np.ndarray) -> None:
    """Make one group of those of both documents of each pair, in `roots` itself: the root is the first document of its group."""
    while True:
        ends = np.sort(roots[pairs], axis=1)
        ends = ends[ends[:, 0] != ends[:, 1]]
        if not len(ends):
            return
        np.minimum.at(roots, ends[:, 1], ends[:, 0])
        while not np.array_equal(above := roots[roots], roots):
            roots[:] = above


def representatives(roots: np.ndarray, lengths: np.ndarray, keep: Literal["first", "longest"] = "first") -> np.ndarray:
    """(documents,) int64: for each document the one of its group that is kept; of equally long ones the first."""
    if keep == "first":
        return roots
    order = np.lexsort((-lengths, roots))
    first = np.ones(len(order), bool)
    first[1:] = roots[order[1:]] != roots[order[:-1]]
    longest = np.empty_like(roots)
    longest[roots[order[first]]] = order[first]
    return longest[roots]


def _rensa():
    purpose = "finding near duplicates"
    return extra("rensa", purpose)


def _fetched(text_of: Callable[[int], str], numbers: np.ndarray) -> Iterator[tuple[list[str], list[int]]]:
    """Texts in batches, with their numbers."""
    texts: list[str] = []
    first, size = 0, 0
    for at, number in enumerate(numbers.tolist()):
        texts.append(text_of(number))
        size += len(texts[-1])
        if size >= BATCH or at == len(numbers) - 1:
            yield texts, numbers[first : at + 1].tolist()
            texts, first, size = [], at + 1, 0


def _keys(signatures: Rows, near: Near, band: int) -> np.ndarray:
    """(documents,) uint64: the numbers of one band in one."""
    keys = np.zeros(len(signatures), np.uint64)
    for column in signatures.columns(band * near.rows, (band + 1) * near.rows).T:
        keys = mixed(keys + column.astype(np.uint64) + np.uint64(1))
    return keys


def _runs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of equal keys begins, and how long it is."""
    begins = np.flatnonzero(np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]]))
    return begins, np.diff(begins, append=len(keys))


def _one_of_each(order: np.ndarray, keys: np.ndarray, groups: np.ndarray, following: np.ndarray) -> np.ndarray:
    """The first of each group in each bucket, those that agree in the following band beside each other."""
    order = order[np.lexsort((order, groups[order], keys[order]))]
    first = np.ones(len(order), bool)
    first[1:] = (keys[order[1:]] != keys[order[:-1]]) | (groups[order[1:]] != groups[order[:-1]])
    order = order[first]
    return order[np.lexsort((order, following[order], keys[order]))]


def _distinct(pairs: np.ndarray) -> np.ndarray:
    """Each pair once, in order."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    first = np.ones(len(pairs), bool)
    first[1:] = (pairs[1:] != pairs[:-1]).any(1)
    return pairs[first]


def _likely(signatures: Rows, near: Near, roots: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Those pairs, the smaller number first, that are of different groups and whose signatures do not speak against it."""
    pairs = np.sort(pairs[roots[pairs[:, 0]] != roots[pairs[:, 1]]], axis=1)
    width = near.bands * near.rows
    least = near.threshold - DOUBT * (near.threshold * (1 - near.threshold) / width) ** 0.5
    found = [np.zeros((0, 2), np.int64)]
    for at in range(0, len(pairs), GATHERED):
        some = pairs[at : at + GATHERED]
        found.append(some[(signatures.at(some[:, 0]) == signatures.at(some[:, 1])).mean(1) >= least])
    return np.concatenate(found)
