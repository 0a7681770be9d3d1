"""Interpolated Kneser-Ney n-grams over token ids: the strongest model that only counts, to measure a trained one against.

Kneser and Ney, 1995, Improved backing-off for m-gram language modeling (one discount per order); Chen and Goodman, 1998,
An empirical study of smoothing techniques, section 3 (the interpolated form, and "modified": three discounts per order).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fledge.arch.record import to_json
from fledge.evaluation.statistics import Interval, ratio


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order, each an integer: rank of its first n - 1 tokens * vocabulary + its last token.

    An n-gram's rank is its place among the sorted `grams`, so every order is one sort.
    `raw` counts occurrences, `continuations` the distinct tokens to the left (for the highest order: none are known).
    """

    grams: np.ndarray
    context: np.ndarray
    contexts: int
    raw: np.ndarray
    continuations: np.ndarray | None

    def interpolated(self, counts: np.ndarray, modified: bool, gram: np.ndarray, context: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """`(count - discount + left over * lower) / total` of each token; an unseen context leaves `lower` as it is."""
        discount = _discounts(counts, modified)
        total = np.bincount(self.context, weights=counts, minlength=self.contexts)
        left_over = np.bincount(self.context, weights=discount[np.minimum(counts, 3)], minlength=self.contexts)
        count = np.where(gram >= 0, counts[gram], 0)
        known = (context >= 0) & (total[context] > 0)
        mass = count - discount[np.minimum(count, 3)] + left_over[context] * lower
        return np.divide(mass, total[context], out=lower.copy(), where=known)


def _discounts(counts: np.ndarray, modified: bool) -> np.ndarray:
    """What is taken from an n-gram counted 0, 1, 2, 3 or more times (Chen and Goodman, 1998, equation 17)."""
    once, twice, thrice, four = (max(1, int((counts == times).sum())) for times in (1, 2, 3, 4))
    y = once / (once + 2 * twice)
    if not modified:
        return np.array([0, y, y, y])
    return np.clip([0, 1 - 2 * y * twice / once, 2 - 3 * y * thrice / twice, 3 - 4 * y * four / thrice], 0, [0, 1, 2, 3])


def _ranked(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`np.unique(keys, return_inverse=True)`, six times as quick where a key and its place fit together in 63 bits."""
    bits = len(keys).bit_length()
    if int(keys.max()).bit_length() + bits > 63:
        return np.unique(keys, return_inverse=True)
    packed = np.sort(keys << bits | np.arange(len(keys)))
    places = packed & ((1 << bits) - 1)
    packed >>= bits
    new = np.concatenate([[True], packed[1:] != packed[:-1]])
    ranks = np.empty(len(keys), np.int64)
    ranks[places] = np.cumsum(new) - 1
    return packed[new], ranks


class KneserNey:
    """Counts of 1- to `order`-grams of token documents; `start` is the token that each document has as its context.

    A document is what has to be predicted: its tokens and the `<|endoftext|>` that closes it, but not the one before it.
    Before a document stand `order - 1` copies of `start`, which are context and never predicted.
    """

    def __init__(self, documents: Sequence[np.ndarray], vocabulary: int, start: int, order: int = 5):
        if not any(len(document) for document in documents):
            raise ValueError("n-grams need at least one token to count")
        self.vocabulary, self.start, self.order = vocabulary, start, order
        tokens, places = self._laid_out(documents)
        self._orders: list[_Order] = []
        rank, before = np.zeros(len(tokens), np.int64), 1
        for _ in range(order):
            context = np.concatenate([[0], rank[:-1]])
            grams, rank_here = _ranked(context * vocabulary + tokens)
            ends = rank_here[places]
            raw = np.bincount(ends, minlength=len(grams)).astype(np.int32)
            if self._orders:
                self._continue(raw, ends, rank[places])
            self._orders.append(_Order(grams, grams // vocabulary, before, raw, None))
            rank, before = rank_here, len(grams)

    def _continue(self, raw: np.ndarray, ends: np.ndarray, shorter: np.ndarray) -> None:
        """Fills in the continuations of the order below: each distinct n-gram counts once for the (n-1)-gram that it ends in."""
        below = self._orders[-1]
        suffix = np.zeros(len(raw), np.int64)
        suffix[ends] = shorter
        continuations = np.bincount(suffix[raw > 0], minlength=len(below.grams)).astype(np.int32)
        self._orders[-1] = _Order(below.grams, below.context, below.contexts, below.raw, continuations)

    def _laid_out(self, documents: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """All documents in one array with starts before each, and the places that are predicted."""
        starts = max(1, self.order - 1)
        lengths = np.array([len(document) for document in documents])
        begins = np.cumsum(lengths + starts) - lengths
        tokens = np.full(int((lengths + starts).sum()), self.start, np.int64)
        predicted = np.zeros(len(tokens), bool)
        for begin, length, document in zip(begins, lengths, documents, strict=True):
            tokens[begin : begin + length] = document
            predicted[begin : begin + length] = True
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.vocabulary:
            raise ValueError(f"token {tokens.max()} does not belong to a vocabulary of {self.vocabulary:,}")
        return tokens, np.flatnonzero(predicted)

    def probabilities(self, documents: Sequence[np.ndarray], modified: bool = True) -> Iterator[np.ndarray]:
        """For each order from 1 on, the probability of every token of the documents, one after the other: `(tokens,)`.

        The order that is asked for is discounted from occurrences, those below it from continuations, and the last of all is uniform.
        """
        tokens, places = self._laid_out(documents)
        rank = np.zeros(len(tokens), np.int64)
        lower = np.full(len(places), 1 / self.vocabulary)
        for order in self._orders:
            context = np.concatenate([[0], rank[:-1]])
            key = context * self.vocabulary + tokens
            nearest = np.minimum(np.searchsorted(order.grams, key), len(order.grams) - 1)
            rank = np.where((order.grams[nearest] == key) & (context >= 0), nearest, -1)
            yield order.interpolated(order.raw, modified, rank[places], context[places], lower)
            if order.continuations is not None:
                lower = order.interpolated(order.continuations, modified, rank[places], context[places], lower)

    def bits(self, documents: Sequence[np.ndarray], modified: bool = True) -> np.ndarray:
        """What every document costs at every order, in bits: `(order, documents)`."""
        ends = np.cumsum([len(document) for document in documents])
        totals = [np.concatenate([[0.0], np.cumsum(-np.log2(p))])[ends] for p in self.probabilities(documents, modified)]
        return np.diff(np.array(totals), axis=1, prepend=0.0)


@dataclass(frozen=True)
class NgramScore:
    """The n-gram of one order in the better of its two forms; `modified` says which it was."""

    order: int
    modified: bool
    bits_per_byte: Interval

    def to_json(self) -> dict:
        return to_json(self)


def ngram_scores(model: KneserNey, documents: Sequence[np.ndarray], sizes: Sequence[int], seed: int = 0) -> tuple[NgramScore, ...]:
    """Bits per byte at every order over documents of `sizes` bytes each, one or three discounts, whichever is lower."""
    forms = {modified: model.bits(documents, modified) for modified in (False, True)}
    scores = []
    for order in range(model.order):
        modified = bool(forms[True][order].sum() < forms[False][order].sum())
        scores.append(NgramScore(order + 1, modified, ratio(forms[modified][order], np.asarray(sizes), seed=seed)))
    return tuple(scores)
