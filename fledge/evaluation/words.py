"""How well words that a model cannot see are guessed: masked ones, lost spans, the words of a target."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from fledge.arch.record import to_json
from fledge.data.batches import IGNORED, Batch
from fledge.evaluation.language import SCORES_AT_ONCE, evaluating
from fledge.evaluation.statistics import Interval, ratio
from fledge.model import Transformer
from fledge.train.objective import labelled_states


@dataclass(frozen=True)
class WordScore:
    """One model on one set of batches: nats per label, the share of labels that its best guess hits, and the share that always
    guessing the commonest label would hit."""

    words: int
    nats: Interval
    accuracy: Interval
    commonest: float

    def to_json(self) -> dict:
        return to_json(self)


def word_score(model: Transformer, batches: Iterable[Batch], seed: int = 0) -> WordScore:
    """Scores every label that is not -100; intervals are by row.

    Raises `ValueError` where there is no label.
    """
    nats, right, counts, met = [], [], [], np.zeros(model.arch.vocabulary, np.int64)
    at_once = max(1, SCORES_AT_ONCE // model.arch.vocabulary)
    with evaluating(model):
        for batch in batches:
            states, labels = labelled_states(model, batch)
            rows = np.nonzero(batch.labels != IGNORED)[0]
            losses, hits = np.empty(len(labels)), np.empty(len(labels), bool)
            for start in range(0, len(labels), at_once):
                part = slice(start, start + at_once)
                scores = model.head(states[part]).float()
                losses[part] = F.cross_entropy(scores, labels[part], reduction="none").double().cpu().numpy()
                hits[part] = torch.eq(scores.argmax(-1), labels[part]).cpu().numpy()
            for found, values in ((nats, losses), (right, hits), (counts, None)):
                found.append(np.bincount(rows, values, minlength=len(batch.labels)))
            met += np.bincount(labels.cpu().numpy(), minlength=len(met))
    if not met.sum():
        raise ValueError("there is no word to guess: give more text, or a larger share of it to validation")
    count = np.concatenate(counts)
    loss, accuracy = (ratio(np.concatenate(part), count, seed=seed) for part in (nats, right))
    return WordScore(int(count.sum()), loss, accuracy, float(met.max() / met.sum()))
