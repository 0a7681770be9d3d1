"""Batches are a function of the step; every token is learnt once per epoch; packed equals separate."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data.batches import (
    IGNORED,
    PADDING,
    Batch,
    Conversations,
    Windows,
    class_weights,
    draw,
    first_fit,
    rows_of,
    shuffled,
)
from fledge.data.corpus import Shards
from fledge.data.framing import Frames, LabelledTexts
from fledge.text.chat import Turns
from fledge.text.tokenizer import Tokenizer

END = 0


def shards(lengths: list[int], parts: int = 1) -> Shards:
    """Documents whose tokens are all different (1, 2, ...), each followed by END, in a few shards."""
    counter = iter(range(1, 10**6))
    docs = [np.array([next(counter) for _ in range(length)] + [END], np.int64) for length in lengths]
    groups = [docs[i::parts] for i in range(min(parts, len(docs)))]
    tokens = [np.concatenate(group) for group in groups]
    indexes = [np.column_stack([np.cumsum([0, *map(len, group[:-1])]), [len(doc) - 1 for doc in group]]) for group in groups]
    return Shards(tokens, indexes)


def equal(a: Batch, b: Batch) -> bool:
    def same(x, y):
        return (x is None and y is None) or np.array_equal(x, y)

    return all(same(getattr(a, name), getattr(b, name)) for name in ("tokens", "labels", "positions", "document", "types"))


streams = st.tuples(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 3), st.integers(1, 20), st.integers(0, 5))


@settings(max_examples=40, deadline=None)
@given(streams, st.booleans(), st.booleans())
def test_each_token_is_a_label_once_per_epoch(stream, separate, moving):
    lengths, parts, context, seed = stream
    source = shards(lengths, parts)
    windows = Windows(source, min(context, source.tokens), batch=1, seed=seed, separate_documents=separate, moving=moving)
    expected = sorted(source.window(0, source.tokens))
    for epoch in range(3):
        steps = range(epoch * windows.steps_per_epoch, (epoch + 1) * windows.steps_per_epoch)
        labels = np.concatenate([batch.labels.ravel() for step in steps for batch in windows.batch_at(step)])
        assert sorted(labels[labels != IGNORED]) == expected
    labels = np.concatenate([batch.labels.ravel() for batch in windows.in_order()])
    assert list(labels[labels != IGNORED]) == list(source.window(0, source.tokens))


@pytest.mark.parametrize("moving", [True, False])
def test_rows_that_do_not_move_come_again(moving):
    windows = Windows(shards([50, 30, 41]), context=10, batch=1, moving=moving)
    epochs = [{tuple(windows.batch_at(epoch * 13 + step)[0].labels[0]) for step in range(13)} for epoch in range(2)]
    assert windows.steps_per_epoch == 13
    assert (epochs[0] == epochs[1]) != moving


@settings(max_examples=40, deadline=None)
@given(streams)
def test_separate_documents_see_only_themselves(stream):
    """Every label lies in the document of its input; what it can see is its own document so far, opened by <|endoftext|>."""
    lengths, parts, context, seed = stream
    source = shards(lengths, parts)
    windows = Windows(source, min(context, source.tokens), 4, seed, separate_documents=True)
    documents = [list(source.document(i)[0]) for i in range(source.documents)]
    home = {token: number for number, document in enumerate(documents) for token in document}
    for batch in [*windows.batch_at(seed), *windows.in_order()]:
        assert batch.document is not None
        assert batch.positions is not None
        for tokens, labels, positions, ids in zip(batch.tokens, batch.labels, batch.positions, batch.document, strict=True):
            assert ((ids == PADDING) == (labels == IGNORED)).all()
            for one in range(ids.max() + 1):
                here = np.flatnonzero(ids == one)
                assert (np.diff(here) == 1).all()
                assert list(positions[here]) == list(range(len(here)))
                assert (tokens[here[1:]] == labels[here[:-1]]).all()
                seen = [token for token in [*tokens[here], *labels[here]] if token != END]
                assert len({home[token] for token in seen}) <= 1
                assert END not in tokens[here[1:]]  # it opens a document and stands nowhere else


def test_joined_rows_are_the_stream_itself():
    source = shards([7, 9, 5])
    windows = Windows(source, 8, 2)
    (first, last) = windows.in_order()
    assert first.positions is None
    assert list(first.tokens.ravel()) == [END, *source.window(0, 15)]
    assert list(first.labels.ravel()) == list(source.window(0, 16))
    assert last.document is None  # 24 tokens: three whole windows
    (short,) = list(Windows(shards([7, 9]), 8, 3).in_order())
    assert short.document is not None
    assert (short.document[2] == [0, 0] + [PADDING] * 6).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3))
def test_steps_take_rows_one_after_another(batch, accumulate):
    """Without a gap, in micro-batches of `batch` rows."""
    windows = Windows(shards([30] * 5), 7, batch, seed=3, accumulate=accumulate)
    for step in range(40):
        rows = batch * accumulate
        assert rows_of(step, rows) == range(step * rows, step * rows + rows)
        assert [len(part.tokens) for part in windows.batch_at(step)] == [batch] * accumulate


def kinds() -> dict:
    dice = random.Random(4)
    texts = ["word " * dice.randint(1, 14) + str(i) for i in range(101)]
    turns = [
        Turns(list(range(100 * i, 100 * i + n)), [k > n // 2 for k in range(n)]) for i, n in enumerate(dice.choices(range(4, 30), k=90))
    ]
    return {
        "windows": lambda batch, accumulate=1: Windows(shards([30, 4, 90, 17]), 8, batch, 7, True, accumulate),
        "texts": lambda batch, accumulate=1: LabelledTexts(Frames(texts, Tokenizer.bytes(), 64), np.arange(101) % 3, batch, 7, accumulate),
        "windows of texts": lambda batch, accumulate=1: LabelledTexts(
            Frames(texts, Tokenizer.bytes(), 24, "windows"), np.arange(101) % 3, batch, 7, accumulate
        ),
        "conversations": lambda batch, accumulate=1: Conversations(turns, 40, batch, 7, accumulate),
    }


@pytest.mark.parametrize("kind", ["windows", "texts", "windows of texts", "conversations"])
def test_a_batch_needs_no_history(kind):
    make = kinds()[kind]
    along = make(3)
    told = [along.batch_at(step) for step in range(60)]
    for step in random.Random(1).sample(range(60), 25):
        fresh = make(3)
        assert all(equal(a, b) for a, b in zip(fresh.batch_at(step), told[step], strict=True))
    for step in reversed(range(60)):
        assert all(equal(a, b) for a, b in zip(along.batch_at(step), told[step], strict=True))


@pytest.mark.parametrize("kind", ["windows", "conversations"])
def test_micro_batches_are_rows_of_one_batch(kind):
    """Four micro-batches of one row hold what one of four holds, padding aside."""
    one, four = kinds()[kind](4), kinds()[kind](1, 4)
    for step in range(20):
        (whole,), parts = one.batch_at(step), four.batch_at(step)
        labels = [row[row != IGNORED].tolist() for row in whole.labels]
        assert [part.labels[part.labels != IGNORED].tolist() for part in parts] == labels


def test_labelled_texts_come_once_per_epoch_and_keep_their_heads():
    make = kinds()["texts"]
    texts = make(4)
    steps = math.ceil(101 / 4)
    assert texts.steps_per_epoch == steps
    told: list[tuple[int, ...]] = []
    for step in range(steps):
        (batch,) = texts.batch_at(step)
        real = batch.document != PADDING
        assert batch.labels.shape == (len(batch.tokens),)
        assert (np.diff(real.astype(int), axis=1) <= 0).all()  # padding on the right
        told += [tuple(row[: mask.sum()]) for row, mask in zip(batch.tokens, real, strict=True)]
    expected = sorted(
        tuple(row[: mask.sum()]) for batch in texts.in_order() for row, mask in zip(batch.tokens, batch.document >= 0, strict=True)
    )
    assert sorted(told[:101]) == expected
    assert max(map(len, expected)) == 64
    assert 0 < texts.frames.beyond <= sum(len(text) == 64 for text in expected)
    padded = sum(batch.tokens.size for step in range(steps) for batch in texts.batch_at(step))
    unsorted = sum(batch.tokens.size for batch in texts.in_order())
    assert padded < 0.9 * unsorted


def test_packed_conversations_equal_separate_ones():
    dice = random.Random(9)
    turns = [
        Turns([1000 * i + k for k in range(n)], [k % 3 == 0 for k in range(n)]) for i, n in enumerate(dice.choices(range(2, 60), k=200))
    ]
    context = 48
    packed = Conversations(turns, context, batch=5, seed=2)
    found = {}
    for batch in packed.in_order():
        assert batch.document is not None
        assert batch.positions is not None
        for tokens, labels, positions, ids in zip(batch.tokens, batch.labels, batch.positions, batch.document, strict=True):
            assert (labels[ids == PADDING] == IGNORED).all()
            for one in range(ids.max() + 1):
                here = ids == one
                found[int(tokens[here][0]) // 1000] = tokens[here].tolist(), labels[here].tolist(), positions[here].tolist()
    assert sorted(found) == packed.kept == [i for i, turn in enumerate(turns) if any(turn.trained[1 : context + 1])]
    for number, (tokens, labels, positions) in found.items():
        whole, trained = turns[number].tokens[: context + 1], turns[number].trained[: context + 1]
        assert tokens == whole[:-1]
        assert labels == [token if on else IGNORED for token, on in zip(whole[1:], trained[1:], strict=True)]
        assert positions == list(range(len(tokens)))
    rows = packed.examples
    assert rows < 1.15 * sum(len(tokens) for tokens, _, _ in found.values()) / context + 2


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 10), max_size=60))
def test_first_fit_is_the_plain_algorithm(lengths):
    plain: list[list[int]] = []
    for number, length in enumerate(lengths):
        row = next((row for row in plain if sum(lengths[i] for i in row) + length <= 10), None)
        if row is None:
            plain.append(row := [])
        row.append(number)
    assert first_fit(lengths, 10) == plain


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**40), st.integers(-1, 50))
def test_shuffled_is_a_bijection(size, seed, epoch):
    order = shuffled(np.arange(size), size, seed, epoch)
    assert np.array_equal(np.sort(order), np.arange(size))
    some = np.array([0, size - 1, size // 2])
    assert np.array_equal(shuffled(some, size, seed, epoch), order[some])


def test_shuffled_is_random():
    """Each place receives each item about equally often (chi-squared over 12 × 12 within 5 standard deviations)."""
    size, runs = 12, 1500
    counts = np.zeros((size, size))
    for epoch in range(runs):
        counts[np.arange(size), shuffled(np.arange(size), size, 1, epoch)] += 1
    chi, free = float(((counts - runs / size) ** 2 / (runs / size)).sum()), (size - 1) ** 2
    assert abs(chi - free) < 5 * math.sqrt(2 * free)


def test_draw_depends_on_all_four():
    values = {draw(a, b, c, d).integers(2**63) for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in ("mask", "crop")}
    assert len(values) == 16
    assert draw(1, 2, 3, "x").integers(2**63) == draw(1, 2, 3, "x").integers(2**63)


def test_class_weights_balance():
    weights = class_weights(np.array([0, 0, 0, 1]), 2)
    assert weights.tolist() == [4 / 6, 2.0]
    several = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0]] + [[0, 1, 1]] * 26, bool)
    assert class_weights(several, 3).tolist() == [10.0, 1.0, 1.0]  # 29 have not the first, which weighs no more than ten times
    for labels, classes in (([0, 0], 2), ([0, 2], 2)):
        with pytest.raises(ValueError, match="needs at least one"):
            class_weights(np.array(labels), classes)


def test_what_cannot_be_batched_is_refused():
    with pytest.raises(ValueError, match="the text has 6 tokens, but one example needs 64"):
        Windows(shards([5]), 64, 1).batch_at(0)
    assert [batch.labels.shape for batch in Windows(shards([5]), 64, 1).in_order()] == [(1, 64)]
    with pytest.raises(ValueError, match="has anything to train on within 1 tokens"):
        Conversations([Turns([1, 2, 3], [False, False, True])], 1, 1)
    with pytest.raises(ValueError, match="2 texts with 1 labels"):
        LabelledTexts(Frames(["a", "b"], Tokenizer.bytes(), 8), np.zeros(1), 1)
    with pytest.raises(ValueError, match="at least 1"):
        Windows(shards([5]), 2, 0)
