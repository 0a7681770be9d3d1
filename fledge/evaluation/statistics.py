"""How far a number can be trusted: percentile bootstrap intervals, alone and for the difference of two paired results.

Efron, 1979, Bootstrap methods; Koehn, 2004, Statistical significance tests for machine translation evaluation (paired).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fledge.arch.record import to_json

Measure = Callable[[np.ndarray], np.ndarray]
"""A number per table of counts: per confusion matrix `(..., classes, classes)` -> `(...)`, as in `fledge.evaluation.metrics`; per sums of
counts `(..., counts)` -> `(...)` in a `Tally`."""

LEVEL = 0.95
RESAMPLES = 2000
_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A measured value and the bounds of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def to_json(self) -> dict:
        return to_json(self)


def interval(value: float, resampled: np.ndarray) -> Interval:
    """`value` with the 2.5 and 97.5 percentiles of what it was in the resamples."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def ratio(above: np.ndarray, below: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """`sum(above) / sum(below)` over documents, resampled by document: both `(documents,)`, such as bits and bytes.

    Two models on the same documents are compared by `ratio(bits_a - bits_b, bytes)`: the paired difference of their bits per byte.
    """
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    if above.shape != below.shape or above.ndim != 1:
        raise ValueError(f"a ratio over documents needs two equally long lists, but got shapes {above.shape} and {below.shape}")
    if below.sum() <= 0:
        raise ValueError("a ratio over documents needs at least one document that is not empty")
    return of_sums(np.column_stack([above, below]), share, resamples, seed)


def share(sums: np.ndarray) -> np.ndarray:
    """The first of two sums `(..., 2)` by the second; no number where that is 0."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0)


def of_sums(counts: np.ndarray, measure: Measure, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """`measure` of what `counts` (documents, counts) come to in all, resampled by document; it takes (resamples, counts).

    Resamples of which it is no number are left out: one may hold empty documents only.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(counts))
    drawn = []
    for start in range(0, resamples, at_once):
        rows = rng.integers(len(counts), size=(min(at_once, resamples - start), len(counts)))
        drawn.append(measure(np.stack([column[rows].sum(1) for column in counts.T], 1)))
    values = np.concatenate(drawn)
    return interval(float(measure(counts.sum(0)[None])[0]), values[~np.isnan(values)])


def of_weights(measure: Measure, rows: int, value: float, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """`value` with the interval of a measure that no sums tell, as areas under curves: `measure` takes how often each row was drawn,
    (resamples, rows). Resamples of which it is no number are left out."""
    rng, at_once, drawn = np.random.default_rng(seed), max(1, _DRAWS_AT_ONCE // rows), []
    for start in range(0, resamples, at_once):
        some = min(at_once, resamples - start)
        places = rng.integers(rows, size=(some, rows)) + rows * np.arange(some)[:, None]
        drawn.append(measure(np.bincount(places.ravel(), minlength=some * rows).reshape(some, rows)))
    values = np.concatenate(drawn)
    return interval(value, values[~np.isnan(values)])


@dataclass(frozen=True, eq=False)
class Tally:
    """What a measure counts on each item, once or in several trials: `counts` is (trials, items, counts) and `measure` makes sums of them
    the value. The value of several trials is their mean; items are resampled with all of their trials.

    `signature` says how it was counted, `lower` whether less is better.
    """

    name: str
    counts: np.ndarray
    measure: Measure = share
    signature: str | None = None
    lower: bool = False

    def __post_init__(self):
        if self.counts.ndim != 3 or not self.counts.size:
            raise ValueError(
                f"{self.name}: counts of trials, items and counts are needed, and at least one, but they are {self.counts.shape}"
            )

    @cached_property
    def trials(self) -> np.ndarray:
        """The value of each trial, (trials,)."""
        return self.measure(self.counts.sum(1))

    @cached_property
    def items(self) -> np.ndarray:
        """The value of each item alone in each trial, (trials, items); no number for one that counts nothing."""
        return self.measure(self.counts)

    def interval(self, seed: int = 0) -> Interval:
        return of_sums(self._flat, self._mean, seed=seed)

    def difference(self, other: "Tally", seed: int = 0) -> Interval:
        """This less the other on the same items, each of which is drawn with what both made of it."""
        if self.counts.shape[1] != other.counts.shape[1]:
            raise ValueError(f"{self.name} of {self.counts.shape[1]} and of {other.counts.shape[1]} items cannot be compared in pairs")
        both, own = np.concatenate([self._flat, other._flat], 1), self._flat.shape[1]
        return of_sums(both, lambda sums: self._mean(sums[:, :own]) - other._mean(sums[:, own:]), seed=seed)

    @property
    def _flat(self) -> np.ndarray:
        return self.counts.transpose(1, 0, 2).reshape(self.counts.shape[1], -1)

    def _mean(self, sums: np.ndarray) -> np.ndarray:
        return self.measure(sums.reshape(len(sums), *self.counts.shape[::2])).mean(1)


def proportion(hits: int, total: int) -> Interval:
    """A share of independent trials with its 95 % score interval (Wilson, 1927), which is none too narrow where nothing or all was hit.

    Raises `ValueError` without trials.
    """
    if not 0 <= hits <= total or not total:
        raise ValueError(f"{hits} of {total} is no share of trials")
    share, z = hits / total, 1.959964  # of a standard normal variable 95 % lie within z of 0
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Interval(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def classification(
    truth: np.ndarray, predicted: np.ndarray, classes: int, measure: Measure, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """`measure` of the confusion matrix of `truth` and `predicted` (class indices, `(rows,)`), resampled by row."""
    cells = _cells(classes, truth, predicted)
    drawn = _resampled(cells, resamples, seed).reshape(-1, classes, classes)
    return interval(float(measure(cells.reshape(classes, classes))), measure(drawn))


def paired_difference(
    truth: np.ndarray, first: np.ndarray, second: np.ndarray, classes: int, measure: Measure, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """`measure(first) - measure(second)` where both predicted the same rows; a row is drawn with both of its predictions."""
    cells = _cells(classes, truth, first, second)
    kept = np.flatnonzero(cells)  # at most one cell per row, of classes ** 3
    true, one, two = np.unravel_index(kept, (classes,) * 3)
    counts = cells[kept]

    def difference(drawn: np.ndarray) -> np.ndarray:
        tables = np.zeros((2, len(drawn), classes * classes), np.int64)
        for table, columns in zip(tables, (true * classes + one, true * classes + two), strict=True):
            for cell, column in enumerate(columns):
                table[:, column] += drawn[:, cell]
        a, b = tables.reshape(2, -1, classes, classes)
        return measure(a) - measure(b)

    return interval(float(difference(counts[None])[0]), difference(_resampled(counts, resamples, seed)))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """How probable it is that two methods differ so much on the same rows by chance alone, by which of them was right, both (rows,).

    The exact test of McNemar (1947): of the rows where one alone is right, either is as likely to be it. 1 where there is no such row.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    apart, fewer = int((first != second).sum()), int(min((first & ~second).sum(), (second & ~first).sum()))
    logs = [math.lgamma(apart + 1) - math.lgamma(k + 1) - math.lgamma(apart - k + 1) - apart * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _cells(classes: int, *columns: np.ndarray) -> np.ndarray:
    """How many rows fall in each cell of the table that the columns of class indices span, flat."""
    arrays = [np.asarray(column) for column in columns]
    if len({array.shape for array in arrays}) > 1 or not arrays[0].size:
        raise ValueError(
            f"the rows must be the same for each method and at least one, but there are {' and '.join(str(a.size) for a in arrays)}"
        )
    if any(array.min() < 0 or array.max() >= classes for array in arrays):
        raise ValueError(f"class indices must be 0 to {classes - 1}")
    return np.bincount(np.ravel_multi_index(arrays, (classes,) * len(arrays)), minlength=classes ** len(arrays))


def _resampled(counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """`(resamples, cells)`: rows drawn with replacement fall into cells as a multinomial of the shares, whatever their order."""
    total = int(counts.sum())
    return np.random.default_rng(seed).multinomial(total, counts / total, size=resamples)
