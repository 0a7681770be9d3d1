"""How a classifier did: accuracy, precision, recall and F1, areas under curves, with intervals; one label, several, or an order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fledge.arch import Choice
from fledge.arch.record import to_json
from fledge.evaluation.statistics import Interval, Measure, classification, of_sums, of_weights, paired_difference

AREAS = 500  # resamples of areas under curves, each of which goes through all rows of each label


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """`(classes, classes)` counts, rows the truth, columns what was predicted."""
    return np.bincount(np.asarray(truth) * classes + np.asarray(predicted), minlength=classes * classes).reshape(classes, classes)


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """The share of rows that are right, of confusion matrices `(..., classes, classes)`."""
    return np.trace(matrix, axis1=-2, axis2=-1) / matrix.sum((-2, -1))


def class_scores(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of every class, each `(..., classes)`; what is divided by zero counts as 0."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    return rates(right, matrix.sum(-2), matrix.sum(-1))


def rates(right: np.ndarray, guessed: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of classes of which so many rows were `guessed`, so many `true`, and so many both."""
    return _share(right, guessed), _share(right, true), _share(2 * right, true + guessed)


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """The mean F1 of the classes that occur, in the truth or among the predictions (as scikit-learn's `f1_score(average="macro")`)."""
    occurs = (matrix.sum(-1) + matrix.sum(-2)) > 0
    return class_scores(matrix)[2].sum(-1) / occurs.sum(-1)


def rank_distance(matrix: np.ndarray) -> np.ndarray:
    """By how many ranks an ordinal prediction is off on average (the mean absolute error)."""
    return (matrix * np.sqrt(_squares(matrix.shape[-1]))).sum((-2, -1)) / matrix.sum((-2, -1))


def weighted_kappa(matrix: np.ndarray) -> np.ndarray:
    """Agreement beyond chance where being off counts by its square (Cohen, 1968): 1 is perfect, 0 what independent guesses come to."""
    expected = matrix.sum(-1)[..., :, None] * matrix.sum(-2)[..., None, :] / matrix.sum((-2, -1))[..., None, None]
    squares = _squares(matrix.shape[-1])
    return 1 - _share((matrix * squares).sum((-2, -1)), (expected * squares).sum((-2, -1)))


def _squares(classes: int) -> np.ndarray:
    return np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2.0


# Of several labels each row counts `[exactly right, then for each label: both, guessed, true]`; a measure takes sums of these.
def several_counts(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """What each row adds: (rows, 1 + 3 labels) of truth and predictions (rows, labels)."""
    truth, predicted = np.asarray(truth, bool), np.asarray(predicted, bool)
    exact = (truth == predicted).all(1, keepdims=True)
    return np.concatenate([exact, truth & predicted, predicted, truth], 1).astype(np.float64)


def _parts(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    right, guessed, true = np.split(sums[..., 1:], 3, -1)
    return right, guessed, true


def several_accuracy(sums: np.ndarray, rows: int) -> np.ndarray:
    """The share of rows all of whose labels are right."""
    return sums[..., 0] / rows


def several_macro_f1(sums: np.ndarray) -> np.ndarray:
    """The mean F1 of the labels (as scikit-learn's `f1_score(average="macro", zero_division=0)`)."""
    return rates(*_parts(sums))[2].mean(-1)


def several_micro_f1(sums: np.ndarray) -> np.ndarray:
    """The F1 of all labels of all rows together."""
    return rates(*(part.sum(-1) for part in _parts(sums)))[2]


def auroc(has: np.ndarray, scores: np.ndarray) -> float | None:
    """The area under the ROC curve: how often a row that has a label scores higher than one that has not; ties count half.

    None where all rows have it, or none.
    """
    return _number(Areas.of(has, scores).auroc(np.ones((1, len(has)))))


def average_precision(has: np.ndarray, scores: np.ndarray) -> float | None:
    """The mean precision at each row that has a label, from the highest score down; rows of one score come together.

    None where no row has it.
    """
    return _number(Areas.of(has, scores).average_precision(np.ones((1, len(has)))))


@dataclass(frozen=True)
class Areas:
    """Rows by their score, from the lowest up: whether each has a label, and where scores change, so that ties come together.

    Both areas are of rows drawn so often, weights (resamples, rows), and no number where they have only rows of one kind.
    """

    order: np.ndarray
    has: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, has: np.ndarray, scores: np.ndarray) -> "Areas":
        order = np.argsort(np.asarray(scores), kind="stable")
        sorted_scores = np.asarray(scores)[order]
        starts = np.flatnonzero(np.concatenate([[True], sorted_scores[1:] != sorted_scores[:-1]]))
        return cls(order, np.asarray(has, bool)[order], starts)

    def _tied(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How often rows of each score have the label, and how often not, (resamples, scores)."""
        ordered = np.asarray(weights, np.float64)[:, self.order]
        return np.add.reduceat(ordered * self.has, self.starts, 1), np.add.reduceat(ordered * ~self.has, self.starts, 1)

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        positive, negative = self._tied(weights)
        wins = (positive * (negative.cumsum(1) - negative / 2)).sum(1)
        return _known(wins, positive.sum(1) * negative.sum(1))

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        positive, negative = (part[:, ::-1] for part in self._tied(weights))
        found = positive.cumsum(1)
        return _known((positive * _share(found, found + negative.cumsum(1))).sum(1), positive.sum(1))


def _known(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A quotient, and no number where it is by zero."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _number(found: np.ndarray) -> float | None:
    return None if np.isnan(found[0]) else float(found[0])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(np.shape(part), np.shape(whole))), where=whole > 0)


@dataclass(frozen=True)
class ClassScore:
    """One class: `rows` is how often it was the truth; the areas are there where probabilities are known and both kinds of rows."""

    label: str
    rows: int
    precision: float
    recall: float
    f1: float
    auroc: float | None = None
    average_precision: float | None = None


@dataclass(frozen=True)
class ClassifierScore:
    """One method on one set of rows; `confusion[i][j]` counts rows of class i that were called class j, of several labels it is empty.

    `accuracy` of several labels is the share of rows all of whose labels are right. `distance` (in ranks) and `kappa` (quadratic) are
    of ordinal labels; the areas are means over the classes that have one.
    """

    rows: int
    accuracy: Interval
    macro_f1: Interval
    micro_f1: Interval
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    auroc: Interval | None = None
    average_precision: Interval | None = None
    distance: Interval | None = None
    kappa: Interval | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(row.label for row in self.classes)

    def to_json(self) -> dict:
        return to_json(self)


def classifier_score(
    truth: Sequence[int] | np.ndarray,
    predicted: Sequence[int] | np.ndarray,
    labels: Sequence[str],
    choice: Choice = "single",
    probabilities: np.ndarray | None = None,
    seed: int = 0,
) -> ClassifierScore:
    """All of it for class indices `(rows,)` into `labels`, of several labels for whether each is there, `(rows, labels)`.

    Probabilities `(rows, labels)` add the areas under curves. Raises `ValueError` where there are no rows, lists of different length, or
    an index outside the labels.
    """
    truth, predicted, count = np.asarray(truth), np.asarray(predicted), len(labels)
    if choice == "several":
        counts = several_counts(truth, predicted)
        right, macro, micro = (of_sums(counts, measure, seed=seed) for measure in _several(len(truth)).values())
        matrix = np.zeros((0, 0), int)
        found = [*rates(*_parts(counts.sum(0)))]
    else:
        right, macro = (classification(truth, predicted, count, measure, seed=seed) for measure in (accuracy, macro_f1))
        micro = right  # with one label each a false alarm is another's miss
        matrix = confusion(truth, predicted, count)
        found = [*class_scores(matrix)]
    has = truth.astype(bool) if choice == "several" else truth[:, None] == np.arange(count)
    areas = [(None, None)] * count
    if probabilities is not None:
        areas = [(auroc(one, given), average_precision(one, given)) for one, given in zip(has.T, probabilities.T, strict=True)]
    classes = tuple(
        ClassScore(label, int(rows), float(p), float(r), float(f), *area)
        for label, rows, p, r, f, area in zip(labels, has.sum(0), *found, areas, strict=True)
    )
    ordinal = (
        [classification(truth, predicted, count, m, seed=seed) for m in (rank_distance, weighted_kappa)] if choice == "ordinal" else []
    )
    return ClassifierScore(
        len(truth), right, macro, micro, classes, tuple(tuple(row) for row in matrix.tolist()),
        *(mean_areas(has, probabilities, measure, seed) for measure in (Areas.auroc, Areas.average_precision)), *ordinal,
    )  # fmt: skip


def mean_areas(
    has: np.ndarray, probabilities: np.ndarray | None, measure: Callable[[Areas, np.ndarray], np.ndarray], seed: int = 0
) -> Interval | None:
    """The mean of an area over the labels that have one, of `has` and `probabilities` (rows, labels); a resample has its own labels."""
    if probabilities is None:
        return None
    labels = [Areas.of(one, given) for one, given in zip(has.T, probabilities.T, strict=True)]

    def mean(weights: np.ndarray) -> np.ndarray:
        areas = np.stack([measure(label, weights) for label in labels])
        return _known(np.nansum(areas, 0), (~np.isnan(areas)).sum(0))

    value = _number(mean(np.ones((1, len(has)))))
    return None if value is None else of_weights(mean, len(has), value, AREAS, seed)


def _several(rows: int) -> dict[str, Measure]:
    return {"accuracy": partial(several_accuracy, rows=rows), "macro-F1": several_macro_f1, "micro-F1": several_micro_f1}


def f1_of(truth: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Macro-F1 alone, of class indices or of several labels."""
    if truth.ndim == 2:
        return float(several_macro_f1(several_counts(truth, predicted).sum(0)))
    return float(macro_f1(confusion(truth, predicted, classes)))


def f1_difference(truth: np.ndarray, first: np.ndarray, second: np.ndarray, classes: int, seed: int = 0) -> Interval:
    """The macro-F1 of the first predictions less that of the second on the same rows, with its paired interval."""
    if truth.ndim == 1:
        return paired_difference(truth, first, second, classes, macro_f1, seed=seed)
    both = np.concatenate([several_counts(truth, first), several_counts(truth, second)], 1)
    half = both.shape[1] // 2
    return of_sums(both, lambda sums: several_macro_f1(sums[..., :half]) - several_macro_f1(sums[..., half:]), seed=seed)


def right_rows(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Which rows are right, (rows,); of several labels those all of whose labels are."""
    return (truth == predicted).all(1) if truth.ndim == 2 else truth == predicted
