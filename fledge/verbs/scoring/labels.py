"""Classifiers on labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from fledge.verbs import terminal
from fledge.verbs.model import Model
from fledge.verbs.scoring.results import Answered, Difference, Evaluated, Score

if TYPE_CHECKING:
    import numpy as np

    from fledge.data.labelled import Labelled


def classifier_scores(
    names: Sequence[str], models: Sequence[Model], on: str, text_column: str | None, label_column: str | None
) -> Evaluated:
    """Accuracy and macro-F1 of every classifier, and their differences in pairs."""
    import numpy as np

    from fledge.data.labelled import read_rows
    from fledge.evaluation.classifier import chosen
    from fledge.evaluation.metrics import classifier_score, f1_difference, right_rows
    from fledge.evaluation.statistics import ratio

    scores, answered = list[Score](), list[Answered]()
    every = sorted({label for model in models for label in model.arch.labels})
    guessed, truth = list[np.ndarray](), np.zeros((0, 0), bool)
    for name, model in zip(names, models, strict=True):
        labels, choice = model.arch.labels, model.arch.choice
        rows = read_rows(on, labels, choice, text_column, label_column, (model.facts.get("data") or {}).get("second_column"))
        terminal.say(f"  text: column {' and '.join(map(repr, rows.columns.texts))}, label: column {rows.columns.label!r}")
        chances = model.probabilities(rows.texts)
        guesses = chosen(chances, choice, model.facts.get("thresholds"))
        found = classifier_score(rows.truth, guesses, labels, choice, chances)
        for measure, interval in (("accuracy", found.accuracy), ("macro-F1", found.macro_f1)):
            scores.append(Score(name, measure, interval.value, (interval.low, interval.high)))
        truth, said = (_among(every, rows, numbers) for numbers in (rows.truth, guesses))
        guessed.append(said)
        answered += [
            Answered(name, number, ", ".join(every[label] for label in np.flatnonzero(row)), {"accuracy": float(right)})
            for number, (row, right) in enumerate(zip(said, right_rows(truth, said).tolist(), strict=True), 1)
        ]
    differences = []
    for a, b in combinations(range(len(names)), 2):
        right = [right_rows(truth, guessed[one]).astype(float) for one in (a, b)]
        differences.append(Difference.of(names[a], names[b], "accuracy", ratio(right[0] - right[1], np.ones(len(truth)))))
        differences.append(Difference.of(names[a], names[b], "macro-F1", f1_difference(truth, guessed[a], guessed[b], len(every))))
    return Evaluated(on, f"{len(truth):,} rows", tuple(scores), tuple(differences), items=tuple(answered))


def _among(every: Sequence[str], rows: Labelled, numbers: np.ndarray) -> np.ndarray:
    """Which of all classifiers' labels each row has, (rows, labels), from class numbers or from which of its own labels it has."""
    import numpy as np

    own = numbers if numbers.ndim == 2 else numbers[:, None] == np.arange(len(rows.names))
    found = np.zeros((len(own), len(every)), bool)
    found[:, [every.index(name) for name in rows.names]] = own
    return found
