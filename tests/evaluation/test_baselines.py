import re
import sys

import numpy as np
import pytest

from fledge.evaluation.baselines import STRENGTHS, Probe, WordBaseline, majority, verdict
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
    assert baseline.logistic.strength in STRENGTHS
    assert baseline.logistic.validation_macro_f1 > 0.9
    test, truth = rows(100, 2)
    assert (baseline.predict(test) == truth).mean() > 0.9
    assert set(baseline._features.get_feature_names_out()) >= {"socket", "return value"}


def test_the_majority_is_the_training_rows():
    assert majority([2, 1, 2, 0], 3).tolist() == [2, 2, 2]
    assert majority([2, 1, 0, 2, 2, 1, 0, 0], 2, "ordinal").tolist() == [1, 1]
    several = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], bool)
    assert majority(several, 2, "several").tolist() == [[True, False]] * 2


def test_pairs_are_told_by_what_their_sides_share():
    rng = np.random.default_rng(0)
    names = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    texts, same = [], rng.integers(0, 2, 300)
    for one in same:
        first, second = rng.choice(names, 2, replace=False)
        texts.append((f"see {first}", f"see {first if one else second}"))
    baseline = WordBaseline.train(texts[:200], same[:200], texts[200:250], same[200:250])
    assert (baseline.predict(texts[250:]) == same[250:]).mean() > 0.9


def test_several_labels_are_each_a_question_of_their_own():
    train, labels = rows(200, 0)
    held, truth = rows(80, 1)
    labels, truth = (np.stack([part == 0, part == 1, np.zeros(len(part), bool)], 1) for part in (labels, truth))
    baseline = WordBaseline.train(train, labels, held[:40], truth[:40], 3, "several")
    assert (baseline.predict(held[40:]) == truth[40:]).mean() > 0.95
    assert (baseline.probabilities(held)[:, 2] == 0).all()  # what no row has is never said


def test_a_probe_is_logistic_regression_on_scaled_vectors():
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(3)
    points = rng.normal(5, 20, (90, 4))
    truth = (points @ [1, -1, 0.5, 0] > 2.5).astype(int)
    texts = [str(i) for i in range(90)]
    probe = Probe.train(lambda some: points[[int(str(text)) for text in some]], texts[:60], truth[:60], texts[60:75], truth[60:75], 2)
    scaled = (points - points[:60].mean(0)) / points[:60].std(0)
    theirs = linear.LogisticRegression(C=probe.logistic.strength, tol=1e-3).fit(scaled[:60], truth[:60])
    np.testing.assert_allclose(probe.probabilities(texts[75:]), theirs.predict_proba(scaled[75:]), atol=1e-3)


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
        WordBaseline.train(["a b"], np.zeros(1, int), ["a b"], np.zeros(1, int))


def test_texts_without_common_words_are_refused():
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match="no word occurs in two of the 2 training texts"):
        WordBaseline.train(["alpha beta", "gamma"], np.arange(2), ["alpha"], np.zeros(1, int))
