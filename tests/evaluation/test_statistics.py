import numpy as np
import pytest

from fledge.evaluation.metrics import accuracy, confusion, macro_f1
from fledge.evaluation.statistics import Tally, classification, interval, paired_difference, proportion, ratio


def test_resampled_confusions_are_distributed_as_resampled_rows():
    """The multinomial shortcut against the plain bootstrap that draws rows one by one."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 150)
    predicted = np.where(rng.random(150) < 0.7, truth, rng.integers(0, 4, 150))
    for measure in (accuracy, macro_f1):
        fast = classification(truth, predicted, 4, measure, resamples=20_000)
        rows = rng.integers(150, size=(4000, 150))
        plain = interval(fast.value, np.array([measure(confusion(truth[r], predicted[r], 4)) for r in rows]))
        assert fast.low == pytest.approx(plain.low, abs=0.006)
        assert fast.high == pytest.approx(plain.high, abs=0.006)
        assert fast.value == pytest.approx(float(measure(confusion(truth, predicted, 4))))


def test_paired_difference_against_row_by_row():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 200)
    first = np.where(rng.random(200) < 0.8, truth, rng.integers(0, 3, 200))
    second = np.where(rng.random(200) < 0.8, first, rng.integers(0, 3, 200))
    fast = paired_difference(truth, first, second, 3, macro_f1, resamples=20_000)
    rows = rng.integers(200, size=(4000, 200))
    plain = [macro_f1(confusion(truth[r], first[r], 3)) - macro_f1(confusion(truth[r], second[r], 3)) for r in rows]
    assert (fast.low, fast.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.006)
    assert fast.value == pytest.approx(float(macro_f1(confusion(truth, first, 3)) - macro_f1(confusion(truth, second, 3))))


def test_pairing_narrows_the_interval_and_a_method_never_differs_from_itself():
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 5, 300)
    first = np.where(rng.random(300) < 0.6, truth, rng.integers(0, 5, 300))
    same = paired_difference(truth, first, first, 5, accuracy)
    assert (same.low, same.value, same.high) == (0, 0, 0)
    second = first.copy()
    second[:10] = truth[:10]
    paired, alone = paired_difference(truth, second, first, 5, accuracy), classification(truth, first, 5, accuracy)
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_ratio_covers_the_truth_nearly_19_times_in_20():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(400):
        sizes = rng.integers(50, 2000, 60)
        bits = sizes * rng.normal(2.0, 0.4, 60)
        found = ratio(bits, sizes, resamples=600, seed=trial)
        covered += found.low <= 2.0 <= found.high
    assert 0.90 <= covered / 400 <= 0.98


def test_ratio_is_of_the_sums_seeded_and_the_same_in_pieces(monkeypatch):
    rng = np.random.default_rng(4)
    above, below = rng.random(40), rng.random(40) + 0.5
    whole = ratio(above, below, seed=5)
    assert whole.value == pytest.approx(above.sum() / below.sum())
    assert whole == ratio(above, below, seed=5) != ratio(above, below, seed=6)
    monkeypatch.setattr("fledge.evaluation.statistics._DRAWS_AT_ONCE", 100)
    assert ratio(above, below, seed=5) == whole


def test_empty_documents_do_not_divide_by_zero():
    found = ratio(np.array([0.0, 5.0, 0.0]), np.array([0, 2, 0]))
    assert (found.low, found.value, found.high) == (2.5, 2.5, 2.5)


@pytest.mark.parametrize(
    ("above", "below", "sentence"), [([1, 2], [1], "equally long"), ([], [], "at least one document"), ([1], [0], "at least one document")]
)
def test_bad_input_is_a_sentence(above, below, sentence):
    with pytest.raises(ValueError, match=sentence):
        ratio(np.array(above), np.array(below))


def test_reads_well():
    assert str(interval(0.5, np.linspace(0.4, 0.6, 1001))) == "0.500 (0.405 to 0.595)"


def test_a_tally_is_the_ratio_and_its_trials_their_mean():
    rng = np.random.default_rng(6)
    counts = np.stack([rng.random((3, 40)), rng.integers(1, 5, (3, 40)).astype(float)], -1)
    single = Tally("m", counts[:1])
    assert single.interval(seed=2) == ratio(counts[0, :, 0], counts[0, :, 1], seed=2)
    several = Tally("m", counts)
    assert several.interval().value == pytest.approx(np.mean([ratio(*trial.T).value for trial in counts]))
    assert several.items == pytest.approx(counts[..., 0] / counts[..., 1])


def test_tallies_differ_in_pairs():
    rng = np.random.default_rng(7)
    hits = (rng.random(200) < 0.6).astype(float)
    better = hits.copy()
    better[:15] = 1
    one, other = (Tally("m", np.stack([part, np.ones(200)], -1)[None]) for part in (better, hits))
    found = one.difference(other, seed=1)
    alone = ratio(better - hits, np.ones(200), seed=1)
    assert (found.low, found.value, found.high) == pytest.approx((alone.low, alone.value, alone.high))
    assert (one.difference(one).low, one.difference(one).high) == (0, 0)
    with pytest.raises(ValueError, match="cannot be compared in pairs"):
        one.difference(Tally("m", one.counts[:, :5]))


def test_a_proportion_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for hits, total in ((0, 100), (3, 7), (50, 100), (9, 9)):
        found, theirs = proportion(hits, total), stats.binomtest(hits, total).proportion_ci(0.95, "wilson")
        assert (found.value, found.low, found.high) == pytest.approx((hits / total, theirs.low, theirs.high), abs=1e-6)
    with pytest.raises(ValueError, match="no share of trials"):
        proportion(0, 0)
