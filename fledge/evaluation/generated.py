"""How near written texts come to their references: BLEU and chrF as sacreBLEU counts them, ROUGE as Google's package does."""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fledge.arch.record import to_json
from fledge.evaluation.statistics import Interval, Tally

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
    """BLEU of a corpus with one reference for each text, its interval by text; see `bleu_tally`."""
    return _score(bleu_tally([written], [[reference] for reference in references], lowercase), seed)


def rouge(written: Sequence[str], references: Sequence[str], seed: int = 0) -> list[TextScore]:
    """ROUGE with one reference for each text, their intervals by text; see `rouge_tallies`."""
    return [_score(tally, seed) for tally in rouge_tallies([written], [[reference] for reference in references])]


def _score(tally: Tally, seed: int) -> TextScore:
    return TextScore(tally.name, tally.interval(seed), tally.signature or "")


def bleu_tally(trials: Sequence[Sequence[str]], references: Sequence[Sequence[str]], lowercase: bool = False) -> Tally:
    """BLEU of a corpus (Papineni et al., 2002; Post, 2018, arXiv:1804.08771), of texts (trials, items) with any number of references each.

    Raises `ValueError` with the command to type where sacreBLEU is missing.
    """
    return _sacrebleu("BLEU", _extra("sacrebleu.metrics").BLEU(lowercase=lowercase, force=True), trials, references)


def chrf_tally(trials: Sequence[Sequence[str]], references: Sequence[Sequence[str]], lowercase: bool = False) -> Tally:
    """chrF2 of a corpus (Popović, 2015), of texts (trials, items) with any number of references each; raises as `bleu_tally` does."""
    return _sacrebleu("chrF", _extra("sacrebleu.metrics").CHRF(lowercase=lowercase), trials, references)


def _sacrebleu(name: str, metric: Any, trials: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Tally:
    """A metric of sacreBLEU by its own counts of each text; it allows `None` where a text has fewer references than another."""
    most = max((len(own) for own in references), default=0)
    streams = [[own[number] if number < len(own) else None for own in references] for number in range(most)]
    counts = []
    for written in trials:
        _alike(written, references)
        counts.append(metric._extract_corpus_statistics(list(written), streams))

    def measure(sums: np.ndarray) -> np.ndarray:
        rows = sums.reshape(-1, sums.shape[-1]).tolist()
        return np.array([metric._compute_score_from_stats(row).score for row in rows]).reshape(sums.shape[:-1])

    return Tally(name, np.array(counts), measure, str(metric.get_signature()))


def rouge_tallies(trials: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[Tally]:
    """ROUGE-1, -2 and -L (Lin, 2004), F-measures of stemmed words averaged over texts (trials, items), each beside its best reference.

    Raises `ValueError` with the command to type where rouge-score is missing.
    """
    from importlib.metadata import version

    library = _extra("rouge_score.rouge_scorer")
    scorer = library.RougeScorer(list(ROUGE), use_stemmer=True)
    found = []
    for written in trials:
        _alike(written, references)
        found.append([scorer.score_multi(list(own), text) for text, own in zip(written, references, strict=True)])
    signature = f"F-measure|stemmer:yes|rouge-score:{version('rouge-score')}"
    return [
        Tally(f"ROUGE-{name[5:]}", np.array([[(100 * row[name].fmeasure, 1) for row in rows] for rows in found]), signature=signature)
        for name in ROUGE
    ]


def installed() -> bool:
    """Whether both libraries are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("sacrebleu", "rouge_score"))


def _alike(written: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(written) != len(references) or not written:
        raise ValueError(f"{len(written)} texts with {len(references)} references: each needs one, and there must be some")


def _extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = {"sacrebleu": "sacrebleu", "rouge_score": "rouge-score"}[name.partition(".")[0]]
        raise ValueError(f"this measure needs {package}, which is not installed: pip install 'fledge[eval]'") from None
