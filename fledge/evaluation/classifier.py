"""What a classifier model says of texts: scores, the probabilities that they come to, and the labels that are chosen by them."""

from collections.abc import Sequence

import numpy as np

from fledge.arch import Choice
from fledge.data.framing import Framed, Frames, Long, collated
from fledge.data.labelled import Text, refuse_empty
from fledge.evaluation.language import evaluating
from fledge.model import Transformer
from fledge.text.tokenizer import Tokenizer
from fledge.train.objective import label_scores

TOKENS = 8192  # of a batch, padding included
ROWS = 128
HALF = 0.5


def scores_of(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[Text], context: int | None = None, long: Long = "cut"
) -> np.ndarray:
    """The score of each label for each text, (texts, labels) float64; texts of like length go through together.

    A text longer than `context` tokens (the model's by default) is read up to there, or in windows whose scores are averaged; an empty
    text raises `ValueError`.
    """
    refuse_empty(texts, "classify")
    frames = Frames(texts, tokenizer, min(context or model.arch.context, model.arch.context), long)
    rows = [(number, frames.row(number, window)) for number in range(len(frames)) for window in range(frames.windows(number))]
    rows.sort(key=lambda row: len(row[1].tokens))
    found, windows = np.zeros((len(texts), len(model.arch.labels))), np.zeros((len(texts), 1))
    with evaluating(model):
        for group in _groups(rows):
            batch = collated([row for _, row in group], np.zeros(len(group), np.int64), tokenizer.pad)
            numbers = [number for number, _ in group]
            np.add.at(found, numbers, label_scores(model, batch).double().cpu().numpy())
            np.add.at(windows, numbers, 1)
    return found / windows


def _groups(rows: Sequence[tuple[int, Framed]]) -> list[list[tuple[int, Framed]]]:
    """Rows that ascend in length, as many together as `TOKENS` and `ROWS` allow."""
    groups: list[list[tuple[int, Framed]]] = []
    for row in rows:
        if not groups or len(groups[-1]) == ROWS or (len(groups[-1]) + 1) * len(row[1].tokens) > TOKENS:
            groups.append([])
        groups[-1].append(row)
    return groups


def probabilities_of(scores: np.ndarray, choice: Choice) -> np.ndarray:
    """The probability of each label, (texts, labels): of several labels each its own, else they add up to 1."""
    if choice == "several":
        return np.exp(-np.logaddexp(0, -scores))
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def chosen(probabilities: np.ndarray, choice: Choice, thresholds: Sequence[float] | None = None) -> np.ndarray:
    """The number of the label of each text, (texts,); of several labels whether a text has each, (texts, labels).

    A single label is the one whose probability is the most times its threshold, an ordinal one the median; each of several is there from
    its threshold on. Without thresholds all are one half.
    """
    least = np.full(probabilities.shape[1], HALF) if thresholds is None else np.asarray(thresholds)
    match choice:
        case "several":
            return probabilities >= least
        case "ordinal":
            return (probabilities.cumsum(1) < HALF - 1e-12).sum(1)
        case _:
            return (probabilities / least).argmax(1)


def probabilities(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[Text], context: int | None = None, long: Long = "cut"
) -> np.ndarray:
    """The probability of each label for each text, (texts, labels), as `scores_of` and `probabilities_of` find it."""
    return probabilities_of(scores_of(model, tokenizer, texts, context, long), model.arch.choice)
