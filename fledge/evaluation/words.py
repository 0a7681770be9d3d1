"""How well words that a model cannot see are guessed: masked ones, lost spans, the words of a target."""

from collections.abc import Sequence
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


@dataclass(frozen=True)
class WordCosts:
    """Nats, hits and labels of rows, `(rows,)` each, and how often each label was met, `(vocabulary,)`."""

    nats: np.ndarray
    hits: np.ndarray
    counts: np.ndarray
    met: np.ndarray

    @classmethod
    def together(cls, parts: Sequence["WordCosts"]) -> "WordCosts":
        nats, hits, counts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("nats", "hits", "counts"))
        return cls(nats, hits, counts, np.sum([part.met for part in parts], axis=0))

    def score(self, seed: int = 0) -> WordScore:
        """Raises `ValueError` where there is no label."""
        words = int(self.counts.sum())
        if not words:
            raise ValueError("there is no word to guess: give more text, or a larger share of it to validation")
        loss, accuracy = (ratio(part, self.counts, seed=seed) for part in (self.nats, self.hits))
        return WordScore(words, loss, accuracy, float(self.met.max() / words))


def word_costs(model: Transformer, batch: Batch) -> WordCosts:
    """Scores every label of a batch that is not -100."""
    at_once = max(1, SCORES_AT_ONCE // model.arch.vocabulary)
    with evaluating(model):
        states, labels = labelled_states(model, batch)
        losses, hits = np.empty(len(labels)), np.empty(len(labels), bool)
        for start in range(0, len(labels), at_once):
            part = slice(start, start + at_once)
            scores = model.head(states[part]).float()
            losses[part] = F.cross_entropy(scores, labels[part], reduction="none").double().cpu().numpy()
            hits[part] = torch.eq(scores.argmax(-1), labels[part]).cpu().numpy()
    rows = np.nonzero(batch.labels != IGNORED)[0]
    nats, right, counts = (np.bincount(rows, values, minlength=len(batch.labels)) for values in (losses, hits, None))
    return WordCosts(nats, right, counts, np.bincount(labels.cpu().numpy(), minlength=model.arch.vocabulary))
