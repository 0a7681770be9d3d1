import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.evaluation.metrics import (
    Areas,
    accuracy,
    auroc,
    average_precision,
    class_scores,
    classifier_score,
    confusion,
    f1_difference,
    f1_of,
    macro_f1,
    rank_distance,
    right_rows,
    weighted_kappa,
)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 7), st.integers(1, 40), st.integers(0, 10_000))
def test_equal_to_scikit_learn_also_where_classes_are_absent(classes, rows, seed):
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, rng.integers(1, classes + 1), rows), rng.integers(0, classes, rows)
    matrix = confusion(truth, predicted, classes)
    np.testing.assert_array_equal(matrix, reference.confusion_matrix(truth, predicted, labels=range(classes)))
    assert accuracy(matrix) == pytest.approx(reference.accuracy_score(truth, predicted))
    assert macro_f1(matrix) == pytest.approx(reference.f1_score(truth, predicted, average="macro", zero_division=0))
    theirs = reference.precision_recall_fscore_support(truth, predicted, labels=range(classes), zero_division=0)
    np.testing.assert_allclose(class_scores(matrix), theirs[:3])


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 6), st.integers(2, 40), st.integers(0, 10_000))
def test_ordinal_measures_equal_scikit_learn(classes, rows, seed):
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, classes, rows), rng.integers(0, classes, rows)
    matrix = confusion(truth, predicted, classes)
    assert rank_distance(matrix) == pytest.approx(reference.mean_absolute_error(truth, predicted))
    if len({*truth, *predicted}) > 1:
        theirs = reference.cohen_kappa_score(truth, predicted, labels=range(classes), weights="quadratic")
        assert weighted_kappa(matrix) == pytest.approx(theirs)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 10_000))
def test_several_labels_equal_scikit_learn(labels, rows, seed):
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth, chances = rng.random((rows, labels)) < rng.random(labels), rng.integers(0, 8, (rows, labels)) / 8
    predicted = chances >= 0.5
    score = classifier_score(truth, predicted, [*"abcde"[:labels]], "several", chances)
    assert score.accuracy.value == pytest.approx(reference.accuracy_score(truth, predicted))
    for average, found in (("macro", score.macro_f1), ("micro", score.micro_f1)):
        assert found.value == pytest.approx(reference.f1_score(truth, predicted, average=average, zero_division=0))
        assert found.low <= found.value + 1e-9
    assert f1_of(truth, predicted, labels) == pytest.approx(score.macro_f1.value)
    assert right_rows(truth, predicted).mean() == pytest.approx(score.accuracy.value)
    theirs = reference.precision_recall_fscore_support(truth, predicted, zero_division=0)
    np.testing.assert_allclose([[one.precision, one.recall, one.f1, one.rows] for one in score.classes], np.array(theirs).T)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000), st.booleans())
def test_areas_equal_scikit_learn_also_with_ties(rows, seed, ties):
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    has, scores = rng.random(rows) < 0.4, rng.integers(0, 4, rows) / 4 if ties else rng.random(rows)
    if 0 < has.sum() < rows:
        assert auroc(has, scores) == pytest.approx(reference.roc_auc_score(has, scores))
    else:
        assert auroc(has, scores) is None
    if has.any():
        assert average_precision(has, scores) == pytest.approx(reference.average_precision_score(has, scores))
    else:
        assert average_precision(has, scores) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 40), st.integers(0, 10_000), st.booleans())
def test_areas_of_rows_drawn_so_often_are_scikit_learns(rows, seed, ties):
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    has, scores = rng.random(rows) < 0.4, rng.integers(0, 4, rows) / 4 if ties else rng.random(rows)
    weights = rng.integers(0, 3, (5, rows))
    areas = Areas.of(has, scores)
    for weight, area, precision in zip(weights, areas.auroc(weights), areas.average_precision(weights), strict=True):
        kept = np.repeat(np.arange(rows), weight)
        if 0 < has[kept].sum() < len(kept):
            assert area == pytest.approx(reference.roc_auc_score(has[kept], scores[kept]))
            assert precision == pytest.approx(reference.average_precision_score(has[kept], scores[kept]))
        else:
            assert np.isnan(area)


def test_areas_have_intervals_that_narrow_with_the_rows():
    rng = np.random.default_rng(6)
    widths = []
    for rows in (100, 1600):
        truth = rng.integers(0, 3, rows)
        chances = rng.dirichlet(np.ones(3), rows) + 0.4 * np.eye(3)[truth]
        score = classifier_score(truth, chances.argmax(1), ("a", "b", "c"), "single", chances)
        assert score.auroc is not None
        assert score.average_precision is not None
        assert score.auroc.value == pytest.approx(np.mean([one.auroc or 0.0 for one in score.classes]))
        assert score.auroc.low < score.auroc.value < score.auroc.high
        assert score.average_precision.low < score.average_precision.value < score.average_precision.high
        widths.append(score.auroc.high - score.auroc.low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.5)


def test_the_difference_of_several_labels_is_paired():
    rng = np.random.default_rng(5)
    truth = rng.random((300, 3)) < 0.4
    first = truth ^ (rng.random((300, 3)) < 0.1)
    second = first ^ (rng.random((300, 3)) < 0.02)
    found = f1_difference(truth, first, second, 3)
    assert found.value == pytest.approx(f1_of(truth, first, 3) - f1_of(truth, second, 3))
    drawn = [rng.integers(300, size=300) for _ in range(2000)]
    plain = [f1_of(truth[r], first[r], 3) - f1_of(truth[r], second[r], 3) for r in drawn]
    assert (found.low, found.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.006)
    same = f1_difference(truth, first, first, 3)
    assert (same.low, same.value, same.high) == (0, 0, 0)
    one = f1_difference(truth[:, 0].astype(int), first[:, 0].astype(int), second[:, 0].astype(int), 2)
    assert not math.isnan(one.value)


def test_many_matrices_at_once_are_each_alone():
    matrices = np.random.default_rng(0).integers(0, 5, (3, 20, 4, 4))
    matrices[0, 0] = 0
    matrices[0, 0, 1, 2] = 3
    for measure in (accuracy, macro_f1):
        np.testing.assert_allclose(measure(matrices), [[measure(m) for m in row] for row in matrices])


def test_a_score_holds_the_point_values_and_goes_through_json():
    truth, predicted = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 1, 0])
    score = classifier_score(truth, predicted, ["a", "b", "c"])
    assert score.rows == 6
    assert score.labels == ("a", "b", "c")
    assert score.accuracy.value == pytest.approx(4 / 6)
    assert score.macro_f1.value == pytest.approx((0.5 + 6 / 7 + 0) / 3)
    assert [row.rows for row in score.classes] == [2, 3, 1]
    assert score.confusion == ((1, 1, 0), (0, 3, 0), (1, 0, 0))
    assert score.accuracy.low <= score.accuracy.value <= score.accuracy.high
    assert json.loads(json.dumps(score.to_json()))["classes"][1]["recall"] == 1.0


@pytest.mark.parametrize(("truth", "predicted"), [([], []), ([0, 1], [0]), ([0, 3], [0, 0]), ([0, -1], [0, 0])])
def test_bad_rows_are_refused(truth, predicted):
    with pytest.raises(ValueError, match=r"rows must be the same|class indices must be 0 to 2"):
        classifier_score(np.array(truth, int), np.array(predicted, int), ["a", "b", "c"])
