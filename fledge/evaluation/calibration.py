"""Whether a classifier's probabilities mean what they say: reliability, temperature scaling, and thresholds by what mistakes cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fledge.arch import Choice
from fledge.evaluation.classifier import probabilities_of
from fledge.evaluation.statistics import Interval, of_sums

BINS = 15  # of equal width, as Guo et al., 2017, arXiv:1706.04599, section 2
COLDEST, HOTTEST = 1 / 16, 16.0


@dataclass(frozen=True)
class Bin:
    """Predictions of like probability: how many, the mean `probability` that they named, and the `share` that was right."""

    rows: int
    probability: float
    share: float


def said(probabilities: np.ndarray, truth: np.ndarray, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities that are judged and whether each came true: of the best label of each row, or of each of several labels."""
    if choice == "several":
        return probabilities.ravel(), truth.astype(bool).ravel()
    best = probabilities.argmax(1)
    return probabilities[np.arange(len(best)), best], best == truth


def reliability(probability: np.ndarray, right: np.ndarray, bins: int = BINS) -> tuple[Bin, ...]:
    """Predictions in bins of equal width, the empty ones left out: `probability` and whether it came true, both (predictions,)."""
    place = _places(probability, bins)
    counts = np.bincount(place, minlength=bins)
    sums, rights = np.bincount(place, probability, bins), np.bincount(place, right, bins)
    return tuple(Bin(int(n), float(s / n), float(r / n)) for n, s, r in zip(counts, sums, rights, strict=True) if n)


def _places(probability: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each probability, which holds its upper bound."""
    return np.clip(np.ceil(probability * bins).astype(int) - 1, 0, bins - 1)


def mean_loss(scores: np.ndarray, truth: np.ndarray, choice: Choice) -> float:
    """The mean cross-entropy in nats of rows, of several labels of each label of each row."""
    if choice == "several":
        return float((np.logaddexp(0, scores) - scores * truth).mean())
    least = scores.max(1, keepdims=True)
    log_sum = np.log(np.exp(scores - least).sum(1)) + least[:, 0]
    return float((log_sum - scores[np.arange(len(truth)), truth]).mean())


def temperature(scores: np.ndarray, truth: np.ndarray, choice: Choice) -> float:
    """What scores have to be divided by so that their cross-entropy is least (Guo et al., 2017, section 4.2), between 1/16 and 16.

    The cross-entropy is convex in the inverse temperature, so that golden sections find it.
    """
    golden = (np.sqrt(5) - 1) / 2
    low, high = 1 / HOTTEST, 1 / COLDEST
    while high - low > 1e-4 * low:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if mean_loss(scores * left, truth, choice) <= mean_loss(scores * right, truth, choice):
            high = right
        else:
            low = left
    return float(2 / (low + high))


@dataclass(frozen=True)
class Calibration:
    """Reliability of test rows before and after their scores were divided by the `temperature` that validation rows chose.

    `shares` are of each label the share of rows that have it, and the mean probability that it was given after.
    """

    temperature: float
    before: tuple[Bin, ...]
    after: tuple[Bin, ...]
    error_before: Interval
    error_after: Interval
    shares: tuple[tuple[float, float], ...]


def calibrated(scores: np.ndarray, truth: np.ndarray, choice: Choice, heat: float) -> Calibration:
    """How well scores (rows, labels) are calibrated as they are and at a temperature."""
    chances = [probabilities_of(scores / t, choice) for t in (1.0, heat)]
    before, after = (reliability(*said(one, truth, choice)) for one in chances)
    error_before, error_after = (error_interval(*said(one, truth, choice), len(truth)) for one in chances)
    has = truth if choice == "several" else truth[:, None] == np.arange(scores.shape[1])
    shares = zip(has.mean(0).tolist(), chances[1].mean(0).tolist(), strict=True)
    return Calibration(heat, before, after, error_before, error_after, tuple(shares))


def error_interval(probability: np.ndarray, right: np.ndarray, rows: int, bins: int = BINS) -> Interval:
    """The expected calibration error: by how much, bin by bin, the share that was right differs from the probability, on average.

    Resampled is by row, of which each of `rows` has as many predictions as the others.
    """
    each = len(right) // rows
    counts = np.zeros((rows, bins + 1))
    np.add.at(counts, (np.arange(len(right)) // each, _places(probability, bins)), right - probability)
    counts[:, bins] = each
    return of_sums(counts, lambda sums: np.abs(sums[:, :bins]).sum(1) / sums[:, bins])


@dataclass(frozen=True)
class Threshold:
    """A label is said from a `probability` on; what that came to where missing it costs `ratio` times as much as saying it wrongly."""

    label: str
    ratio: float
    probability: float
    precision: float
    recall: float
    cost: float


def cheapest(probability: np.ndarray, has: np.ndarray, ratio: float) -> float:
    """The threshold at which mistakes on these rows cost least, a miss `ratio` times as much as a false alarm, both (rows,).

    Of equally cheap ones it is the nearest to `1 / (1 + ratio)`, where they would be least for true probabilities
    (Elkan, 2001, The foundations of cost-sensitive learning).
    """
    order = np.argsort(probability, kind="stable")
    values, positive = probability[order], np.asarray(has, bool)[order]
    misses = np.concatenate([[0], np.cumsum(positive)])  # of rows below the threshold
    alarms = (~positive).sum() - np.concatenate([[0], np.cumsum(~positive)])
    costs = ratio * misses + alarms  # at most one rounding each
    edges = np.concatenate([[0.0], values, [1.0]])
    apart = np.concatenate([[True], values[1:] > values[:-1], [True]])  # equal probabilities are on one side
    low, high, best = edges[:-1], edges[1:], np.flatnonzero(apart & (costs <= costs[apart].min() + 1e-9))
    target = 1 / (1 + ratio)
    margin = (high - low)[best] * 1e-3
    inside = np.clip(target, low[best] + margin, high[best] - margin)
    return float(np.clip(inside[np.abs(inside - target).argmin()], 1e-6, 1 - 1e-6))


def costs_at(label: str, probability: np.ndarray, has: np.ndarray, ratio: float, threshold: float) -> Threshold:
    """What a threshold comes to on rows, its cost in false alarms a row."""
    has, says = np.asarray(has, bool), probability >= threshold
    both = int((has & says).sum())
    cost = (ratio * int((has & ~says).sum()) + int((~has & says).sum())) / len(has)
    return Threshold(label, ratio, threshold, both / max(1, int(says.sum())), both / max(1, int(has.sum())), cost)


def thresholds(
    probabilities: np.ndarray, truth: np.ndarray, names: Sequence[str], choice: Choice, costs: Mapping[str, float]
) -> list[float]:
    """For each label the threshold that `chosen` takes so that mistakes cost least: `costs` are those of missing a label, 1 by default.

    Of two labels, and of each of several, the validation rows given choose it; of more they follow from the costs alone.
    """
    missing = [float(costs.get(name, 1.0)) for name in names]
    if choice == "several":
        return [cheapest(probabilities[:, i], truth[:, i], cost) for i, cost in enumerate(missing)]
    if len(names) == 2:
        least = cheapest(probabilities[:, 1], truth == 1, missing[1] / missing[0])
        return [1 - least, least]
    return [1 / cost for cost in missing]
