import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.evaluation.ngrams import KneserNey, _ranked, ngram_scores


class SlowKneserNey:
    """The textbook's formula with dictionaries: p_n(w | h) = (c(hw) - D)+ / c(h.) + left over / c(h.) * p_n-1(w | h')."""

    def __init__(self, documents, vocabulary, start, order, modified):
        self.vocabulary, self.start, self.order = vocabulary, start, order
        longest = Counter()
        self.raw = {n: Counter() for n in range(1, order + 1)}
        self.left = {n: defaultdict(set) for n in range(1, order + 1)}
        for document in documents:
            padded = [start] * max(1, order - 1) + list(document)
            for i in range(len(padded) - len(document), len(padded)):
                longest[tuple(padded[i - order + 1 : i + 1])] += 1
                for n in range(1, order + 1):
                    self.raw[n][tuple(padded[i - n + 1 : i + 1])] += 1
                    if n < order:
                        self.left[n][tuple(padded[i - n + 1 : i + 1])].add(padded[i - n])
        self.continued = {n: Counter({gram: len(tokens) for gram, tokens in grams.items()}) for n, grams in self.left.items()}
        self.modified = modified

    def discount(self, counts, count):
        n = {times: max(1, sum(c == times for c in counts.values())) for times in (1, 2, 3, 4)}
        y = n[1] / (n[1] + 2 * n[2])
        if not self.modified:
            return y
        times = min(count, 3)
        return min(times, max(0.0, times - (times + 1) * y * n[times + 1] / n[times]))

    def probability(self, history, token, order, top=True):
        if order == 0:
            return 1 / self.vocabulary
        counts = self.raw[order] if top else self.continued[order]
        history = tuple(history[len(history) - order + 1 :])
        lower = self.probability(history[1:] if order > 1 else (), token, order - 1, top=False)
        following = {gram: c for gram, c in counts.items() if gram[:-1] == history}
        if not following:
            return lower
        total = sum(following.values())
        count = following.get((*history, token), 0)
        left_over = sum(self.discount(counts, c) for c in following.values())
        return (count - (self.discount(counts, count) if count else 0) + left_over * lower) / total

    def all(self, documents, order):
        return [
            self.probability(([self.start] * max(1, self.order - 1) + list(document))[: i + max(1, self.order - 1)], token, order)
            for document in documents
            for i, token in enumerate(document)
        ]


documents = st.lists(st.lists(st.integers(0, 5), max_size=12), min_size=1, max_size=5).filter(lambda d: any(map(len, d)))


@settings(max_examples=60, deadline=None)
@given(documents, documents, st.integers(1, 4), st.booleans())
def test_equals_the_dictionaries(train, held, order, modified):
    fast = list(KneserNey(train, 6, 0, order).probabilities(held, modified))
    slow = SlowKneserNey(train, 6, 0, order, modified)
    for n in range(1, order + 1):
        np.testing.assert_allclose(fast[n - 1], slow.all(held, n), rtol=1e-12)


@pytest.mark.parametrize("modified", [False, True])
def test_probabilities_sum_to_one_after_any_context(modified):
    rng = np.random.default_rng(0)
    vocabulary = 37
    train = [np.append(rng.zipf(1.5, rng.integers(5, 200)) % vocabulary, 0) for _ in range(60)]
    model = KneserNey(train, vocabulary, 0, 5)
    seen = [document[: rng.integers(0, len(document))] for document in train[:30]]
    unseen = [rng.integers(0, vocabulary, rng.integers(0, 9)) for _ in range(30)]
    for context in seen + unseen:
        continued = [np.append(context, token) for token in range(vocabulary)]
        last = np.cumsum([len(document) for document in continued]) - 1
        for p in model.probabilities(continued, modified):
            assert np.all(p > 0)
            assert p[last].sum() == pytest.approx(1, abs=1e-12)


def test_one_order_by_hand():
    """Four tokens, a three times and b once: y = 1 / (1 + 0)... n1 = 1, n2 = 0 read as 1: D = 1/3; a: (3 - 1/3) / 4 + (2/3 / 4) / 2."""
    (p,) = KneserNey([np.array([0, 0, 0, 1])], 2, 0, order=1).probabilities([np.array([0, 1])], modified=False)
    np.testing.assert_allclose(p, [(3 - 1 / 3) / 4 + 1 / 12, (1 - 1 / 3) / 4 + 1 / 12])


def test_bits_are_counted_once_per_document():
    rng = np.random.default_rng(1)
    train = [rng.integers(0, 9, 50) for _ in range(20)]
    held = [rng.integers(0, 9, size) for size in (7, 0, 30, 1)]
    model = KneserNey(train, 9, 0)
    bits = model.bits(held)
    assert bits.shape == (5, 4)
    assert np.all(bits[:, 1] == 0)
    for d, document in enumerate(held):
        np.testing.assert_allclose(bits[:, d], model.bits([document])[:, 0], rtol=1e-9)
    np.testing.assert_allclose(bits.sum(1), [-np.log2(p).sum() for p in model.probabilities(held)])


def test_scores_take_the_better_form_and_longer_memory_helps_on_repetitive_text():
    rng = np.random.default_rng(2)
    phrases = [rng.integers(1, 50, 6) for _ in range(12)]
    train = [np.concatenate([phrases[i] for i in rng.integers(0, 12, 20)] + [np.array([0])]) for _ in range(40)]
    held = [np.concatenate([phrases[i] for i in rng.integers(0, 12, 20)] + [np.array([0])]) for _ in range(8)]
    sizes = [3 * len(document) for document in held]
    model = KneserNey(train, 50, 0)
    scores = ngram_scores(model, held, sizes)
    values = [score.bits_per_byte.value for score in scores]
    assert values[0] > values[1] > values[2]
    for score in scores:
        both = [model.bits(held, modified)[score.order - 1].sum() / sum(sizes) for modified in (False, True)]
        assert score.bits_per_byte.value == pytest.approx(min(both))
        assert score.modified == (both[1] < both[0])
        assert json.loads(json.dumps(score.to_json()))["order"] == score.order


def test_bad_input_is_a_sentence():
    with pytest.raises(ValueError, match="at least one token"):
        KneserNey([np.array([], int)] * 2, 5, 0)
    with pytest.raises(ValueError, match="does not belong to a vocabulary of 5"):
        KneserNey([np.array([1, 7])], 5, 0)


@pytest.mark.parametrize("largest", [5, 1 << 20, 1 << 40, 1 << 61])
def test_ranking_is_unique_whether_packed_or_not(largest):
    keys = np.random.default_rng(3).integers(0, largest, 3000)
    keys[:500] = keys[500:1000]
    for ours, theirs in zip(_ranked(keys), np.unique(keys, return_inverse=True), strict=True):
        np.testing.assert_array_equal(ours, theirs)
