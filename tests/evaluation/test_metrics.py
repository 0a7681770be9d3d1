import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.evaluation.metrics import accuracy, class_scores, classifier_score, confusion, macro_f1


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
