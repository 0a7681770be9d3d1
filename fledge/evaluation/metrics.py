"""How a classifier did: confusion matrix, accuracy, precision, recall and F1 of each class, macro-F1, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fledge.arch.record import to_json
from fledge.evaluation.statistics import Interval, classification


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """`(classes, classes)` counts, rows the truth, columns what was predicted."""
    return np.bincount(np.asarray(truth) * classes + np.asarray(predicted), minlength=classes * classes).reshape(classes, classes)


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """The share of rows that are right, of confusion matrices `(..., classes, classes)`."""
    return np.trace(matrix, axis1=-2, axis2=-1) / matrix.sum((-2, -1))


def class_scores(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of every class, each `(..., classes)`; what is divided by zero counts as 0."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    true, guessed = matrix.sum(-1), matrix.sum(-2)
    return _share(right, guessed), _share(right, true), _share(2 * right, true + guessed)


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """The mean F1 of the classes that occur, in the truth or among the predictions (as scikit-learn's `f1_score(average="macro")`)."""
    occurs = (matrix.sum(-1) + matrix.sum(-2)) > 0
    return class_scores(matrix)[2].sum(-1) / occurs.sum(-1)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)


@dataclass(frozen=True)
class ClassScore:
    """One class: `rows` is how often it was the truth."""

    label: str
    rows: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ClassifierScore:
    """One method on one set of rows; `confusion[i][j]` counts rows of class i that were called class j."""

    rows: int
    accuracy: Interval
    macro_f1: Interval
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(row.label for row in self.classes)

    def to_json(self) -> dict:
        return to_json(self)


def classifier_score(
    truth: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray, labels: Sequence[str], seed: int = 0
) -> ClassifierScore:
    """All of it for class indices `(rows,)` into `labels`.

    Raises `ValueError` where there are no rows, lists of different length, or an index outside the labels.
    """
    truth, predicted, count = np.asarray(truth), np.asarray(predicted), len(labels)
    right = classification(truth, predicted, count, accuracy, seed=seed)
    macro = classification(truth, predicted, count, macro_f1, seed=seed)
    matrix = confusion(truth, predicted, count)
    rows = zip(labels, matrix.sum(1), *class_scores(matrix), strict=True)
    classes = tuple(ClassScore(label, int(n), float(p), float(r), float(f)) for label, n, p, r, f in rows)
    return ClassifierScore(len(truth), right, macro, classes, tuple(tuple(row) for row in matrix.tolist()))
