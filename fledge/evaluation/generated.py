"""How near written texts come to their references: BLEU as sacreBLEU counts it, ROUGE as Google's package does, with intervals."""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fledge.arch.record import to_json
from fledge.evaluation.statistics import Interval, of_sums, ratio

ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class TextScore:
    """A measure (from 0 to 100) of many texts beside their references, and the `signature` that says how it was counted."""

    measure: str
    interval: Interval
    signature: str

    def to_json(self) -> dict:
        return to_json(self)


def bleu(written: Sequence[str], references: Sequence[str], lowercase: bool = False, seed: int = 0) -> TextScore:
    """BLEU of a corpus (Papineni et al., 2002; Post, 2018, arXiv:1804.08771), its interval by text.

    Raises `ValueError` with the command to type where sacreBLEU is missing.
    """
    BLEU = _extra("sacrebleu.metrics").BLEU
    _alike(written, references)
    metric = BLEU(lowercase=lowercase)
    value = metric.corpus_score(list(written), [list(references)]).score
    each = BLEU(lowercase=lowercase, effective_order=True)
    sentences = [each.sentence_score(text, [reference]) for text, reference in zip(written, references, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in sentences], np.int64)

    def measure(sums: np.ndarray) -> np.ndarray:
        rows = sums.reshape(-1, 10).tolist()
        found = [BLEU.compute_bleu(row[:4], row[4:8], row[8], row[9], smooth_method=metric.smooth_method).score for row in rows]
        return np.array(found).reshape(sums.shape[:-1])

    found = of_sums(counts, measure, seed=seed)
    return TextScore("BLEU", Interval(value, found.low, found.high), str(metric.get_signature()))


def rouge(written: Sequence[str], references: Sequence[str], seed: int = 0) -> list[TextScore]:
    """ROUGE-1, -2 and -L (Lin, 2004), F-measures of stemmed words averaged over texts, their intervals by text.

    Raises `ValueError` with the command to type where rouge-score is missing.
    """
    library = _extra("rouge_score.rouge_scorer")
    _alike(written, references)
    scorer = library.RougeScorer(list(ROUGE), use_stemmer=True)
    rows = [scorer.score(reference, text) for text, reference in zip(written, references, strict=True)]
    from importlib.metadata import version

    signature = f"F-measure|stemmer:yes|rouge-score:{version('rouge-score')}"
    ones = np.ones(len(rows))
    return [
        TextScore(f"ROUGE-{name[5:]}", ratio(np.array([100 * row[name].fmeasure for row in rows]), ones, seed=seed), signature)
        for name in ROUGE
    ]


def installed() -> bool:
    """Whether both libraries are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("sacrebleu", "rouge_score"))


def _alike(written: Sequence[str], references: Sequence[str]) -> None:
    if len(written) != len(references) or not written:
        raise ValueError(f"{len(written)} texts with {len(references)} references: each needs one, and there must be some")


def _extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = {"sacrebleu": "sacrebleu", "rouge_score": "rouge-score"}[name.partition(".")[0]]
        raise ValueError(f"this measure needs {package}, which is not installed: pip install 'fledge[eval]'") from None
