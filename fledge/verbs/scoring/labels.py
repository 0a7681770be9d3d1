"""Classifiers on labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from fledge.verbs import terminal
from fledge.verbs.model import Model
from fledge.verbs.scoring.results import Answered, Difference, Evaluated, Score


def classifier_scores(
    names: Sequence[str], models: Sequence[Model], on: str, text_column: str | None, label_column: str | None
) -> Evaluated:
    """Accuracy and macro-F1 of every classifier, and their differences in pairs."""
    import numpy as np

    from fledge.data.labelled import read_labelled
    from fledge.evaluation.classifier import probabilities
    from fledge.evaluation.metrics import accuracy, classifier_score, macro_f1
    from fledge.evaluation.statistics import paired_difference

    rows = read_labelled(on, text_column, label_column)
    terminal.say(f"  text: column {rows.text_column!r}, label: column {rows.label_column!r}")
    every = sorted({label for model in models for label in model.arch.labels})
    scores: list[Score] = []
    answered: list[Answered] = []
    guessed: list[np.ndarray] = []
    truth = np.zeros(0, np.int64)
    for name, model in zip(names, models, strict=True):
        labels = model.arch.labels
        if strangers := sorted(label for label in rows.names if label not in labels):
            raise ValueError(f"{on} has the label {strangers[0]!r}, which {name} never learned; it knows {', '.join(labels)}")
        truth = np.array([every.index(rows.names[label]) for label in rows.labels])
        guesses = probabilities(model.network, model.tokenizer, rows.texts, model.facts.get("reads")).argmax(1)
        found = classifier_score([labels.index(rows.names[label]) for label in rows.labels], guesses, labels)
        for measure, interval in (("accuracy", found.accuracy), ("macro-F1", found.macro_f1)):
            scores.append(Score(name, measure, interval.value, (interval.low, interval.high)))
        guessed.append(np.array([every.index(labels[guess]) for guess in guesses]))
        answered += [
            Answered(name, line, every[guess], {"accuracy": float(guess == true)})
            for line, guess, true in zip(rows.lines, guessed[-1].tolist(), truth.tolist(), strict=True)
        ]
    differences = [
        Difference.of(names[a], names[b], measure, paired_difference(truth, guessed[a], guessed[b], len(every), of))
        for a, b in combinations(range(len(names)), 2)
        for measure, of in (("accuracy", accuracy), ("macro-F1", macro_f1))
    ]
    return Evaluated(on, f"{len(rows.texts):,} rows", tuple(scores), tuple(differences), items=tuple(answered))
