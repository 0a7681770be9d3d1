"""How hard a text is to foretell, found by counting alone in about a second: what the plan's expectation leans on."""

from collections.abc import Iterable

import numpy as np

from fledge.data.corpus import Corpus, Shards
from fledge.evaluation.ngrams import KneserNey
from fledge.train.plan import Difficulty

BYTES, TOKENS = 1_000_000, 400_000  # that are counted, at most
TRIED = 50_000  # held-out tokens, at most
STRETCH = 512  # tokens
COPIED_AFTER = 6  # bytes that stand before as well


def difficulty_of(corpus: Corpus) -> Difficulty:
    """What stretches that lie evenly over a text tell of it: the bits per byte that 5-grams need, and how much comes again nearby."""
    per_token, end = corpus.summary.bytes_per_token, corpus.tokenizer.end_of_text
    counted = stretches(corpus.train, min(TOKENS, int(BYTES / per_token)))
    tried = stretches(corpus.validation if corpus.validation.tokens else corpus.train, TRIED)
    bits = KneserNey(counted, corpus.tokenizer.size, end).bits(tried, modified=False)[-1].sum()  # one discount is never nothing
    tokens = sum(map(len, tried))
    return Difficulty(float(bits / (tokens * per_token)), copied(tried, max(1, round(COPIED_AFTER / per_token))))


def stretches(shards: Shards, tokens: int) -> list[np.ndarray]:
    """So many tokens, or all there are, in stretches that lie evenly over the text."""
    length = min(STRETCH, shards.tokens)
    starts = np.linspace(0, shards.tokens - length, max(1, min(tokens, shards.tokens) // length)).astype(int)
    return [shards.window(int(start), length) for start in starts]


def copied(stretches: Iterable[np.ndarray], order: int) -> float:
    """The share of tokens that follow the `order` tokens before them as they did the last time within the stretch.

    >>> copied([np.array([1, 2, 1, 2, 1, 3])], 1)
    0.3333333333333333
    """
    hits = tokens = 0
    for stretch in stretches:
        last: dict[bytes, int] = {}
        for i in range(order, len(stretch)):
            before, token = stretch[i - order : i].tobytes(), int(stretch[i])
            hits += last.get(before) == token
            last[before] = token
        tokens += len(stretch)
    return hits / tokens
