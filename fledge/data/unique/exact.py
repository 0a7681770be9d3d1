"""Which documents are equal to an earlier one, by 16-byte hashes, in bounded memory."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np

from fledge.data.unique.rows import Rows

BUCKET = 1 << 20  # hashes of a bucket, about; 80 MB with what sorting them takes

Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`spread(function, items)` gives the result for each item in their order, as `map` does: here, in other processes, on other machines."""


def digests(hashes: Iterable[bytes]) -> np.ndarray:
    """(documents, 2) uint64: 16-byte hashes such as those of `content_hash`, as numbers to store beside a piece."""
    return np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 2)


def exact_duplicates(hashes: Rows, among: Rows | None = None, spread: Spread = map) -> np.ndarray:
    """(duplicates, 2) int64, in order: the global number of each row of `hashes` that stood before, and that of the first like it.

    `hashes`: those of `digests`, one part for each piece; `among`: of the same parts, (rows,) bool, which of them count at all.
    Hashes are looked at in buckets by their leading bits, so that memory does not grow with the corpus but by 16 bytes for each
    duplicate; each bucket is a task of its own.
    """
    bits = max(0, (len(hashes) - 1) // BUCKET).bit_length()
    found = list(spread(partial(bucket_duplicates, hashes, among, bits), range(1 << bits)))
    pairs = np.concatenate(found)
    return pairs[np.argsort(pairs[:, 0])]


def bucket_duplicates(hashes: Rows, among: Rows | None, bits: int, bucket: int) -> np.ndarray:
    """`exact_duplicates` of the hashes whose leading `bits` are the number `bucket`."""
    held, numbers, found = np.zeros((0, 2), np.uint64), np.zeros(0, np.int64), [np.zeros((0, 2), np.int64)]
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    masks = repeat(None) if among is None else (mask for _, mask in among.each())
    for (start, rows), mask in zip(hashes.each(), masks, strict=False):
        here = np.ones(len(rows), bool) if mask is None else np.array(mask)
        if bits:
            here &= rows[:, 0] >> np.uint64(64 - bits) == bucket
        chosen = np.flatnonzero(here)
        waiting.append((rows[chosen], chosen + start))
        if sum(len(some) for _, some in waiting) > BUCKET // 2:  # a bucket of one text a million times over does not grow
            held, numbers = _firsts(held, numbers, waiting, found)
            waiting = []
    _firsts(held, numbers, waiting, found)
    return np.concatenate(found)


def _firsts(
    held: np.ndarray, numbers: np.ndarray, waiting: Sequence[tuple[np.ndarray, np.ndarray]], found: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What is first among what is held and what waits; what is not is put into `found`."""
    held = np.concatenate([held, *(rows for rows, _ in waiting)])
    numbers = np.concatenate([numbers, *(some for _, some in waiting)])
    order = np.lexsort((numbers, held[:, 1], held[:, 0]))
    held, numbers = held[order], numbers[order]
    first = np.ones(len(held), bool)
    first[1:] = (held[1:] != held[:-1]).any(1)
    originals = numbers[first][np.cumsum(first) - 1]
    found.append(np.stack([numbers, originals], 1)[~first])
    return held[first], numbers[first]


def kept_masks(pairs: np.ndarray, like: Rows) -> list[np.ndarray]:
    """For each piece of `like`, (rows,) bool: False for what `pairs` of (number, original) call a duplicate."""
    masks = []
    for start, rows in like.each():
        mask = np.ones(len(rows), bool)
        first, last = np.searchsorted(pairs[:, 0], (start, start + len(rows)))
        mask[pairs[first:last, 0] - start] = False
        masks.append(mask)
    return masks
