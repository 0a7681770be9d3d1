"""What a classifier has to beat: the commonest labels, and logistic regression on weighted words or on a base model's vectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fledge.arch import Choice
from fledge.data.labelled import Text, joined
from fledge.evaluation.classifier import chosen
from fledge.evaluation.metrics import f1_of
from fledge.evaluation.statistics import Interval

STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse regularisation (scikit-learn's C), from the strictest."""
WEAKER = (0.01, 0.1, 1.0)
"""The same for features of unit variance, of which there are fewer."""


def majority(truth: Sequence[int] | np.ndarray, rows: int, choice: Choice = "single") -> np.ndarray:
    """What the training `truth` says without a look at a text, for each of `rows`: the commonest label, `(rows,)`, the lowest of several
    equally common; of an ordinal choice the median one; of several labels those that half of the rows have, `(rows, labels)`."""
    truth = np.asarray(truth)
    match choice:
        case "several":
            return np.tile(truth.mean(0) >= 0.5, (rows, 1))
        case "ordinal":
            return np.full(rows, np.sort(truth)[(len(truth) - 1) // 2])
        case _:
            return np.full(rows, np.bincount(truth).argmax())


@dataclass(frozen=True)
class Logistic:
    """Logistic regression on features; `strength` is the C that validation chose. Of several labels there is one for each."""

    strength: float
    validation_macro_f1: float
    choice: Choice
    classes: int
    _models: Any = field(repr=False)

    @classmethod
    def best(
        cls, features: Any, truth: np.ndarray, validation: Any, validation_truth: np.ndarray, classes: int, choice: Choice,
        strengths: Sequence[float] = STRENGTHS,
    ) -> "Logistic":  # fmt: skip
        """Learns from the training rows only; validation rows choose among the strengths by macro-F1, the strictest of equals.

        Features are matrices (rows, features), dense or sparse.
        """
        from sklearn.linear_model import LogisticRegression

        def fitted(strength: float, wanted: np.ndarray) -> Any:
            first = wanted[0]
            return first if (wanted == first).all() else LogisticRegression(C=strength, max_iter=2000, tol=1e-3).fit(features, wanted)

        tried = []
        for strength in strengths:
            models = [fitted(strength, wanted) for wanted in (truth.T if choice == "several" else [truth])]
            model = cls(strength, 0.0, choice, classes, models)
            score = f1_of(validation_truth, chosen(model.probabilities(validation), choice), classes)
            tried.append(cls(strength, score, choice, classes, models))
        return max(tried, key=lambda model: model.validation_macro_f1)

    def probabilities(self, features: Any) -> np.ndarray:
        """The probability of each label for each row of features, (rows, labels)."""
        found = np.zeros((features.shape[0], self.classes))
        if self.choice == "several":
            for column, model in zip(found.T, self._models, strict=True):
                column[:] = model.predict_proba(features)[:, 1] if hasattr(model, "predict_proba") else float(model)
            return found
        [model] = self._models
        if hasattr(model, "predict_proba"):
            found[:, model.classes_] = model.predict_proba(features)
        else:
            found[:, model] = 1
        return found


@dataclass(frozen=True)
class WordBaseline:
    """TF-IDF of words and pairs of words, sublinear, then logistic regression; of pairs of texts, of each side and of what they share.

    Words of one text alone are left out: over 4,700 rows of code that saved two thirds of the time, and macro-F1 rose (0.826 to 0.832).
    """

    logistic: Logistic
    _features: Any = field(repr=False)

    @classmethod
    def train(
        cls, texts: Sequence[Text], truth: np.ndarray, validation_texts: Sequence[Text], validation_truth: np.ndarray,
        classes: int | None = None, choice: Choice = "single",
    ) -> "WordBaseline":  # fmt: skip
        """Learns from the training rows; see `Logistic.best`.

        Raises `ValueError` where scikit-learn is missing or no word occurs in two texts.
        """
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ModuleNotFoundError:
            raise ValueError("the TF-IDF baseline needs scikit-learn: pip install scikit-learn") from None
        truth, validation_truth = np.asarray(truth), np.asarray(validation_truth)
        features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        try:
            features.fit([joined(text) for text in texts])
        except ValueError:  # an empty vocabulary
            raise ValueError(f"no word occurs in two of the {len(texts):,} training texts: the TF-IDF baseline needs more text") from None
        classes = classes or 1 + int(max(truth.max(), validation_truth.max()))
        matrices = (_weighted(features, part) for part in (texts, validation_texts))
        return cls(Logistic.best(next(matrices), truth, next(matrices), validation_truth, classes, choice), features)

    def probabilities(self, texts: Sequence[Text]) -> np.ndarray:
        """The probability of each label for each text, (texts, labels)."""
        return self.logistic.probabilities(_weighted(self._features, texts))

    def predict(self, texts: Sequence[Text]) -> np.ndarray:
        """The class index of each text, `(texts,)`, or of several labels whether each is there."""
        return chosen(self.probabilities(texts), self.logistic.choice)


def _weighted(features: Any, texts: Sequence[Text]) -> Any:
    from scipy.sparse import hstack

    if not texts or isinstance(texts[0], str):
        return features.transform(texts)
    first, second = (features.transform([text[side] for text in texts]) for side in (0, 1))
    return hstack([first, second, first.multiply(second)]).tocsr()


@dataclass(frozen=True)
class Probe:
    """A linear probe: logistic regression on the vectors that a model, as it was before fine-tuning, makes of texts."""

    logistic: Logistic
    vectors: Callable[[Sequence[Text]], np.ndarray] = field(repr=False)
    mean: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)

    @classmethod
    def train(
        cls, vectors: Callable[[Sequence[Text]], np.ndarray], texts: Sequence[Text], truth: np.ndarray, validation_texts: Sequence[Text],
        validation_truth: np.ndarray, classes: int, choice: Choice = "single",
    ) -> "Probe":  # fmt: skip
        """Learns from the training rows' `vectors` (texts, width), each of their numbers at mean 0 and variance 1."""
        found = vectors(texts)
        mean, scale = found.mean(0), found.std(0) + 1e-6
        features, validation = (found - mean) / scale, (vectors(validation_texts) - mean) / scale
        return cls(Logistic.best(features, truth, validation, validation_truth, classes, choice, WEAKER), vectors, mean, scale)

    def probabilities(self, texts: Sequence[Text]) -> np.ndarray:
        """The probability of each label for each text, (texts, labels)."""
        return self.logistic.probabilities((self.vectors(texts) - self.mean) / self.scale)


def verdict(difference: Interval, ours: str, theirs: str, measure: str = "macro-F1") -> str:
    """One sentence which of two methods to use, from the paired difference `ours - theirs`; the simpler `theirs` if it may be chance."""
    value, low, high = difference.value, difference.low, difference.high
    if low > 0:
        return f"Use {ours}: on the same rows its {measure} is {value:.3f} above that of {theirs} (95 % interval {low:.3f} to {high:.3f})."
    if high < 0:
        return (
            f"Use {theirs}: on the same rows its {measure} is {-value:.3f} above that of {ours} (95 % interval {-high:.3f} to {-low:.3f})."
        )
    gap = f"the difference in {measure}, {value:+.3f}, may be chance (95 % interval {low:+.3f} to {high:+.3f})"
    return f"Use {theirs}, the smaller and quicker one: {ours} ran on the same rows, and {gap}."
