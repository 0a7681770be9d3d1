"""Spoilt text: the shares that the papers name, nothing lost, and the same at each visit of the same step alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data.batches import IGNORED, PADDING, Pairs
from fledge.data.corpus import Shards
from fledge.data.noise import Denoise, MaskedWords, hidden, spans, without_spans
from fledge.text.tokenizer import RESERVED, Tokenizer

BYTES = Tokenizer.bytes()
TEXT = "A sparrow sat on the mill wheel, singing; 12 geese flew over it.\n" * 40


def shards(*texts: str, tokenizer: Tokenizer = BYTES) -> Shards:
    parts = [np.array([*tokenizer.encode(text), tokenizer.end_of_text]) for text in texts]
    starts = np.cumsum([0, *map(len, parts[:-1])])
    return Shards([np.concatenate(parts)], [np.column_stack([starts, [len(text.encode()) for text in texts]])])


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer.train([TEXT], 448)


def test_of_fifteen_in_a_hundred_eight_tenths_are_masked_and_one_is_any_word():
    text = np.tile(np.arange(105, 361), 400)
    batches = MaskedWords(shards(TEXT), BYTES, 64, 4)
    chosen = batches.chosen(text, np.random.default_rng(0))
    assert chosen.sum() == round(0.15 * len(text))
    spoilt = hidden(text, chosen, BYTES.mask or 0, batches.words, np.random.default_rng(1))
    assert (spoilt[~chosen] == text[~chosen]).all()
    assert (spoilt[chosen] == BYTES.mask).mean() == pytest.approx(0.8, abs=0.01)
    assert (spoilt[chosen] == text[chosen]).mean() == pytest.approx(0.1, abs=0.01)
    others = spoilt[chosen & (spoilt != text) & (spoilt != BYTES.mask)]
    assert len(np.unique(others)) > 250
    assert others.min() >= len(RESERVED)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(4, 40), st.integers(0, 5), st.booleans(), st.booleans())
def test_masked_rows_hold_the_text_and_ask_for_what_they_hide(lengths, context, seed, separate, framed):
    tokenizer = BYTES.framing(opening=True, closing=True) if framed else BYTES
    source = shards(*("abcdefghij" * 6)[:1] * len(lengths)) if sum(lengths) < context else shards(*("x" * length for length in lengths))
    if source.tokens < context:
        return
    batches = MaskedWords(source, tokenizer, context, 2, seed, separate)
    for batch in [part for step in range(3) for part in batches.batch_at(step)]:
        asked = batch.labels != IGNORED
        assert asked.any()
        real = np.ones_like(batch.tokens, bool) if batch.document is None else batch.document != PADDING
        assert not (asked & ~real).any()
        assert (batch.labels[asked] >= len(RESERVED)).all()
        if framed:
            assert (batch.tokens[:, 0] == 0).all()
        if batch.positions is not None:
            assert batch.positions.max() < context
            assert (batch.positions[:, 0] == 0).all()
        mended = np.where(asked, batch.labels, batch.tokens)[real]
        assert set(mended.tolist()) <= {*source.window(0, source.tokens).tolist(), 0}


def test_each_visit_has_a_mask_of_its_own_and_each_step_one_mask():
    batches, again = (MaskedWords(shards(TEXT), BYTES, 64, 4, seed=3) for _ in range(2))
    later = batches.steps_per_epoch * 2
    for step in (7, 0, later):
        np.testing.assert_array_equal(batches.batch_at(step)[0].tokens, again.batch_at(step)[0].tokens)
    whole = [np.concatenate([part.labels.ravel() for part in batches.batch_at(step)]) for step in (0, later)]
    assert (whole[0] != whole[1]).any()
    checks = [list(one.in_order()) for one in (batches, again)]
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(*checks, strict=True))


def test_whole_words_are_hidden_whole(bpe):
    tokens = bpe.encode("unlike sparrow singing, it's 1234567 geese\nflew")
    words = bpe.words(tokens)
    parts = [bpe.decode([t for t, w in zip(tokens, words, strict=True) if w == word]) for word in range(max(words) + 1)]
    assert "".join(parts) == bpe.decode(tokens)
    assert {"unlike", " sparrow", " singing", " geese", "flew"} <= set(parts)
    batches = MaskedWords(shards(TEXT, tokenizer=bpe), bpe, 60, 4, whole_words=True)
    for batch in batches.batch_at(0):
        for tokens, labels in zip(batch.tokens, batch.labels, strict=True):
            text = np.where(labels != IGNORED, labels, tokens)
            words = np.array(bpe.words(text.tolist()))
            asked = labels != IGNORED
            assert all(asked[words == word].all() for word in np.unique(words[asked]))
            assert 1 <= asked.sum() <= round(0.15 * len(text)) + 6


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.floats(0.05, 0.5), st.floats(1, 6), st.integers(0, 99))
def test_spans_and_what_is_left_are_the_text(length, share, mean, seed):
    text, sentinels = np.arange(1000, 1000 + length), np.arange(100)
    lost = spans(length, share, mean, len(sentinels), np.random.default_rng(seed))
    source, target = without_spans(text, lost, sentinels)
    assert lost.sum() == min(max(round(length * share), 1), length - 1)
    mended, at = [], np.append(np.flatnonzero(target < 100), len(target))
    for token in source:
        mended += target[at[token] + 1 : at[token + 1]].tolist() if token < 100 else [token]
    assert mended == text.tolist()


def test_a_row_to_denoise_is_as_the_paper_has_it():
    """512 tokens at 15 % and 3 a span: 77 tokens lost in 26 spans; the source ends, and so does the target."""
    tokenizer = BYTES.framing(closing=True)
    batch = Denoise(shards(TEXT), tokenizer, 0, 513, 2).batch_at(0)[0]
    assert batch.source is not None
    assert (batch.source.tokens.shape[1], batch.tokens.shape[1]) == (512 - 77 + 26 + 1, 77 + 26 + 1)
    assert batch.document is None
    assert (batch.source.tokens[:, -1] == 0).all()
    assert (batch.labels[:, -1] == 0).all()
    np.testing.assert_array_equal(batch.tokens[:, 1:], batch.labels[:, :-1])
    assert (batch.tokens[:, 0] == 0).all()
    first = tokenizer.special("<extra_id_0>")
    assert first is not None
    assert (batch.labels[:, 0] == first).all()
    assert ((batch.source.tokens >= first) & (batch.source.tokens < first + 100)).sum(1).tolist() == [26, 26]


def test_pairs_teach_by_forcing_and_pad_little():
    sources = ["ab" * (i % 9 + 1) for i in range(64)]
    targets = [text[::-1].upper() for text in sources]
    tokenizer = BYTES.framing(closing=True)
    batches = Pairs(sources, targets, tokenizer, 0, 16, 4, seed=1)
    assert batches.truncated == sum(len(text) + 1 > 16 for text in sources)
    seen, padding = [], 0
    for part in [part for step in range(batches.steps_per_epoch) for part in batches.batch_at(step)]:
        assert part.source is not None
        real = part.labels != IGNORED
        padding += (real.sum(1).max() - real.sum(1)).sum()
        assert part.labels.shape[1] == 8 * -(-real.sum(1).max() // 8)
        if part.document is not None:
            np.testing.assert_array_equal(real, part.document != PADDING)
        assert (part.tokens[:, 0] == 0).all()
        np.testing.assert_array_equal(part.tokens[:, 1:][real[:, 1:]], part.labels[:, :-1][real[:, 1:]])
        seen += [tuple(row[row != IGNORED].tolist()) for row in part.labels]
    expected = [(*tokenizer.encode(text), 0) for text in targets]
    expected = [row if len(row) <= 16 else (*row[:15], 0) for row in expected]
    assert sorted(seen) == sorted(expected)
    assert padding / (64 * 10) < 0.1
