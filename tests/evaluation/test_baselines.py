import re
import sys

import numpy as np
import pytest

from fledge.evaluation.baselines import STRENGTHS, WordBaseline, majority, verdict
from fledge.evaluation.statistics import Interval


def rows(count, seed):
    rng = np.random.default_rng(seed)
    words = [["socket", "bind", "listen"], ["parse", "token", "tree"], ["thread", "lock", "queue"]]
    labels = rng.integers(0, 3, count)
    return [" ".join(rng.choice(words[label] + ["self", "return", "value"], 8)) for label in labels], labels


def test_words_are_learnt_and_the_strength_is_the_best_on_validation():
    pytest.importorskip("sklearn")
    train, labels = rows(150, 0)
    validation, validation_labels = rows(60, 1)
    baseline = WordBaseline.train(train, labels, validation, validation_labels)
    assert baseline.strength in STRENGTHS
    assert baseline.validation_macro_f1 > 0.9
    test, truth = rows(100, 2)
    assert (baseline.predict(test) == truth).mean() > 0.9
    assert set(baseline._features.get_feature_names_out()) >= {"socket", "return value"}


def test_the_majority_is_the_training_rows():
    assert majority([2, 1, 2, 0], 3).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("difference", "start"),
    [
        (Interval(0.05, 0.02, 0.08), "Use fledge: on the same rows its macro-F1 is 0.050 above that of words"),
        (Interval(-0.05, -0.08, -0.02), "Use words: on the same rows its macro-F1 is 0.050 above that of fledge"),
        (Interval(0.01, -0.02, 0.04), "Use words, the smaller and quicker one"),
        (Interval(0.0, 0.0, 0.0), "Use words, the smaller and quicker one"),
    ],
)
def test_the_verdict_is_one_sentence_that_follows_the_interval(difference, start):
    sentence = verdict(difference, "fledge", "words")
    assert sentence.startswith(start)
    assert sentence.endswith(").")
    assert "\n" not in sentence
    value, low, high = map(float, re.findall(r"[-+]?\d+\.\d+", sentence))
    assert low <= value <= high


def test_without_scikit_learn_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        WordBaseline.train(["a b"], [0], ["a b"], [0])


def test_texts_without_common_words_are_refused():
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match="no word occurs in two of the 2 training texts"):
        WordBaseline.train(["alpha beta", "gamma"], [0, 1], ["alpha"], [0])
