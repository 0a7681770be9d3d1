"""BLEU and ROUGE are those of the libraries that the field compares by."""

import importlib.util

import numpy as np
import pytest

from fledge.evaluation.generated import bleu, rouge
from fledge.evaluation.statistics import of_sums, ratio

REFERENCES = [
    "the cat sat on the mat today",
    "a dog barks at the old gate",
    "it rains in the hills again",
    "two boys are playing football outside",
]
WRITTEN = ["the cat sat on a mat today", "a dog barks at the gate", "It rains in the hills again", "boys playing outside"]


def test_the_measures_are_those_of_their_libraries():
    sacrebleu, scorer = pytest.importorskip("sacrebleu"), pytest.importorskip("rouge_score.rouge_scorer")
    for lowercase in (False, True):
        found = bleu(WRITTEN, REFERENCES, lowercase)
        assert found.interval.value == sacrebleu.corpus_bleu(WRITTEN, [REFERENCES], lowercase=lowercase).score
        assert found.interval.low < found.interval.value < found.interval.high
        assert f"case:{'lc' if lowercase else 'mixed'}" in found.signature
    assert bleu(WRITTEN, REFERENCES, lowercase=True).interval.value > bleu(WRITTEN, REFERENCES).interval.value
    plain = scorer.RougeScorer(["rougeL"], use_stemmer=True)
    by_hand = np.mean([plain.score(a, b)["rougeL"].fmeasure for a, b in zip(REFERENCES, WRITTEN, strict=True)])
    assert rouge(WRITTEN, REFERENCES)[2].interval.value == pytest.approx(100 * by_hand)
    with pytest.raises(ValueError, match="each needs one"):
        bleu(WRITTEN[:1], REFERENCES)


@pytest.mark.skipif(importlib.util.find_spec("sacrebleu") is not None, reason="sacrebleu is installed here")
def test_without_them_it_says_what_to_type():
    with pytest.raises(ValueError, match=r"pip install 'fledge\[eval\]'"):
        bleu(WRITTEN, REFERENCES)


def test_a_ratio_is_one_measure_of_sums():
    rng = np.random.default_rng(0)
    above, below = rng.random(50), rng.integers(1, 9, 50)
    assert of_sums(np.column_stack([above, below]), lambda sums: sums[:, 0] / sums[:, 1], seed=3) == ratio(above, below, seed=3)


def test_resamples_are_smoothed_as_the_whole_is():
    found = bleu(["a b c z", "d x f y", "g h y w"] * 4, ["a b d z", "d e f z", "g h i v"] * 4).interval
    assert 0 < found.low < found.value < found.high
