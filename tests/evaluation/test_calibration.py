"""Reliability against scikit-learn's, the best temperature against a fine grid, the cheapest threshold against all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.evaluation.calibration import (
    calibrated,
    cheapest,
    costs_at,
    error_interval,
    mean_loss,
    reliability,
    said,
    temperature,
    thresholds,
)
from fledge.evaluation.classifier import chosen, probabilities_of


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(0, 10_000))
def test_reliability_is_scikit_learns(rows, seed):
    reference = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(seed)
    probability = rng.random(rows)
    right = rng.random(rows) < probability
    share, mean = reference.calibration_curve(right, probability, n_bins=10)
    bins = reliability(probability, right, 10)
    np.testing.assert_allclose([one.share for one in bins], share)
    np.testing.assert_allclose([one.probability for one in bins], mean)
    assert sum(one.rows for one in bins) == rows
    plain = sum(abs(share[i] - mean[i]) * one.rows for i, one in enumerate(bins)) / rows
    error = error_interval(probability, right, rows, 10)
    assert error.value == pytest.approx(plain)
    assert error.low <= error.high


@pytest.mark.parametrize("choice", ["single", "several", "ordinal"])
def test_the_temperature_is_the_best_and_is_found_again(choice):
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 2, (3000, 4))
    if choice == "several":
        truth = rng.random(scores.shape) < probabilities_of(scores, choice)
    else:
        truth = np.array([rng.choice(4, p=row) for row in probabilities_of(scores, choice)])
    heat = temperature(3 * scores, truth, choice)
    assert heat == pytest.approx(3, rel=0.1)
    losses = [mean_loss(3 * scores / t, truth, choice) for t in np.geomspace(1.5, 6, 60)]
    assert mean_loss(3 * scores / heat, truth, choice) <= min(losses) + 1e-9
    found = calibrated(3 * scores, truth, choice, heat)
    assert found.error_after.value < found.error_before.value / 2
    assert found.error_after.high < found.error_before.low
    assert all(probability == pytest.approx(share, abs=0.03) for share, probability in found.shares)


def test_labels_that_weighed_more_are_found_too_probable_and_the_shares_tell():
    rng = np.random.default_rng(7)
    scores = rng.normal(0, 1, (4000, 2)) + np.array([2.0, 0.0])
    truth = np.array([rng.choice(2, p=row) for row in probabilities_of(scores, "single")])
    weighed = scores + np.array([0.0, np.log(7.0)])  # what learning with a rare label that weighs seven times as much comes to
    (_, (share, probability)) = calibrated(weighed, truth, "single", temperature(weighed, truth, "single")).shares
    assert probability > 1.5 * share
    [_, (share, probability)] = calibrated(scores, truth, "single", 1.0).shares
    assert probability == pytest.approx(share, abs=0.02)


def test_errors_of_several_labels_are_resampled_by_row():
    """Rows that are copies of each other add nothing: the interval is as wide as that of the single ones."""
    rng = np.random.default_rng(4)
    probability = rng.random((200, 1))
    right = rng.random((200, 1)) < probability
    one, three = (error_interval(np.tile(probability, n).ravel(), np.tile(right, n).ravel(), 200) for n in (1, 3))
    assert (three.value, three.low, three.high) == pytest.approx((one.value, one.low, one.high))


def test_the_loss_is_scikit_learns():
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    scores, truth = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
    theirs = reference.log_loss(truth, probabilities_of(scores, "single"), labels=[0, 1, 2])
    assert mean_loss(scores, truth, "single") == pytest.approx(theirs)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.integers(0, 10_000), st.sampled_from([0.2, 1.0, 3.0, 10.0]))
def test_no_threshold_is_cheaper(rows, seed, ratio):
    rng = np.random.default_rng(seed)
    probability, has = rng.integers(1, 7, rows) / 7, rng.random(rows) < 0.5
    least = cheapest(probability, has, ratio)
    assert 0 < least < 1
    costs = [costs_at("x", probability, has, ratio, at).cost for at in np.linspace(1e-6, 1 - 1e-6, 500)]
    assert costs_at("x", probability, has, ratio, least).cost <= min(costs) + 1e-9


def test_dear_misses_lower_the_threshold_and_the_choice_follows():
    rng = np.random.default_rng(3)
    chance = rng.random(4000)
    truth = (rng.random(4000) < chance).astype(int)
    both = np.stack([1 - chance, chance], 1)
    cheap, dear = (thresholds(both, truth, ("no", "yes"), "single", costs) for costs in ({}, {"yes": 4.0}))
    assert cheap[1] == pytest.approx(0.5, abs=0.06)
    assert dear[1] == pytest.approx(0.2, abs=0.06)
    assert (chosen(both, "single", dear) == (chance >= dear[1])).all()
    three = np.array([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25]])
    least = thresholds(three, truth, ("a", "b", "c"), "single", {"c": 2.0})
    assert chosen(three, "single", least).tolist() == [0, 2]
    several = np.array([[0.3, 0.6], [0.1, 0.2]])
    assert chosen(several, "several", [0.25, 0.5]).tolist() == [[True, True], [False, False]]


def test_an_ordinal_choice_is_the_median():
    chances = np.array([[0.4, 0.2, 0.4], [0.5, 0.0, 0.5], [0.1, 0.1, 0.8], [0.45, 0.04, 0.51]])
    assert chosen(chances, "ordinal").tolist() == [1, 0, 2, 2]
    assert chosen(chances, "single").tolist() == [0, 0, 2, 2]


def test_each_of_several_labels_is_judged():
    probability, right = said(np.array([[0.9, 0.2], [0.4, 0.6]]), np.array([[1, 0], [0, 0]]), "several")
    assert (probability.tolist(), right.tolist()) == ([0.9, 0.2, 0.4, 0.6], [True, False, False, False])
