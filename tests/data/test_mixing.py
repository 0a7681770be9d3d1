"""Mixtures keep their shares to a row, each group its own order; they need no history and know nothing of processes."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data.batches import IGNORED, PADDING, Batch, Windows
from fledge.data.corpus import Shards
from fledge.data.mixing import Mixture, among, in_parts, shares_of, tempered, turns, within_epochs
from fledge.data.noise import Denoise, MaskedWords
from fledge.data.packing import Packed
from fledge.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes()


def text(letters: str, lengths: list[int]) -> Shards:
    """Documents of letters that only this group has, each closed."""
    documents = [np.array([*BYTES.encode((letters * length)[:length]), BYTES.end_of_text]) for length in lengths]
    index = np.column_stack([np.cumsum([0, *map(len, documents[:-1])]), lengths])
    return Shards([np.concatenate(documents)], [index])


TEXTS = [text("ABCDEFG", [50, 7, 31, 90]), text("abcdefghi", [333]), text("0123456789", [20] * 40)]
KINDS = {
    "windows": lambda shards, seed: Windows(shards, 16, 1, seed),
    "separate": lambda shards, seed: Windows(shards, 16, 1, seed, separate_documents=True),
    "packed": lambda shards, seed: Packed(shards, 16, 1, seed),
    "masked": lambda shards, seed: MaskedWords(shards, BYTES.framing(opening=True, closing=True), 18, 1, seed),
    "denoise": lambda shards, seed: Denoise(shards, BYTES, BYTES.end_of_text, 17, 1, seed),
}


def mixture(kind: str, shares: list[float], batch: int = 6, accumulate: int = 1) -> Mixture:
    return Mixture([KINDS[kind](shards, seed) for seed, shards in enumerate(TEXTS)], shares, batch, accumulate)


def whose(mixed: Mixture, number: int) -> int:
    """The group that a row is of."""
    return int(np.argmax(mixed.before(number + 1) - mixed.before(number)))


def arrays(batch: Batch) -> list[np.ndarray]:
    source = [] if batch.source is None else [batch.source.tokens, batch.source.positions, batch.source.document]
    return [np.asarray(part) for part in (batch.tokens, batch.labels, batch.positions, batch.document, *source) if part is not None]


def equal(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(arrays(a), arrays(b), strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=9))
def test_after_any_number_of_turns_each_has_its_share_to_less_than_one(weights):
    parts = in_parts(weights)
    had = np.cumsum(turns(parts)[:, None] == np.arange(len(parts)), axis=0)
    due = np.arange(1, len(had) + 1)[:, None] * np.array(parts) / sum(parts)
    assert (np.abs(had - due) < 1).all()
    assert had[-1].tolist() == parts
    assert np.allclose(np.array(parts) / sum(parts), np.array(weights) / sum(weights), atol=1e-4)


@pytest.mark.parametrize("number", [0, 1, 10, 12_345, 10**9 + 7, 10**12])
def test_shares_are_exact_over_long_runs(number):
    mixed = mixture("windows", [0.3, 0.55, 0.15])
    had = mixed.before(number)
    fill = np.array([group.fill for group in mixed.groups])
    wanted = np.array([0.3, 0.55, 0.15]) / fill
    assert had.sum() == number
    assert (np.abs(had - number * mixed.parts / mixed.parts.sum()) < 1).all()
    assert np.allclose(mixed.parts / mixed.parts.sum(), wanted / wanted.sum(), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_groups_in_their_order(kind):
    """What a mixture gives of a group is what the group alone would give, row by row."""
    mixed = mixture(kind, [0.2, 0.5, 0.3])
    rows = [labels[labels != IGNORED] for step in range(40) for batch in mixed.batch_at(step) for labels in batch.labels]
    owners = np.array([whose(mixed, number) for number in range(240)])
    assert len(rows) == 240
    for group, shards in enumerate(TEXTS):
        own = np.flatnonzero(owners == group)
        assert len(own) == mixed.before(240)[group] > 20
        alone = KINDS[kind](shards, group)
        for place, number in zip(alone.places(range(len(own))), own, strict=True):
            labels = alone.collated([place]).labels
            assert labels[labels != IGNORED].tolist() == rows[number].tolist()


@pytest.mark.parametrize("kind", ["windows", "separate", "packed"])
def test_each_token_of_a_group_is_a_label_once_per_epoch(kind):
    mixed = mixture(kind, [0.25, 0.25, 0.5], batch=1)
    labels = [batch.labels[batch.labels != IGNORED] for step in range(400) for batch in mixed.batch_at(step)]
    rows = [group.examples for group in mixed.groups]
    for group, shards in enumerate(TEXTS):
        own = [labels[number] for number in range(400) if whose(mixed, number) == group]
        for start, end in pairwise(range(0, len(own), rows[group])):
            found = np.concatenate(own[start:end])
            assert sorted(found) == sorted(shards.window(0, shards.tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_needs_no_history_and_is_the_same_for_several_processes(kind):
    along = mixture(kind, [0.2, 0.5, 0.3], batch=6, accumulate=2)
    told = [along.batch_at(step) for step in range(25)]
    for step in (24, 3, 11):
        whole = mixture(kind, [0.2, 0.5, 0.3], batch=6, accumulate=2).batch_at(step)
        assert all(equal(a, b) for a, b in zip(whole, told[step], strict=True))
        for places in (2, 3, 6):
            shares = [along.batch_at(step, place, places) for place in range(places)]
            for number, batch in enumerate(whole):
                rows = [row[row != IGNORED].tolist() for share in shares for row in share[number].labels]
                assert rows == [row[row != IGNORED].tolist() for row in batch.labels]


def test_rows_of_different_lengths_are_padded():
    mixed = mixture("denoise", [0.2, 0.5, 0.3])
    for step in range(60):
        for batch in mixed.batch_at(step):
            assert batch.source is not None
            for document, tokens in ((batch.document, batch.labels), (batch.source.document, batch.source.tokens)):
                if document is not None:
                    assert document.shape == tokens.shape
            if batch.document is not None:
                assert ((batch.document == PADDING) == (batch.labels == IGNORED)).all()


def test_shares_as_typed():
    assert shares_of("general=0.7,domain=0.3") == pytest.approx({"general": 0.7, "domain": 0.3})
    assert shares_of("a=b=3,c=1") == {"a=b": 0.75, "c": 0.25}
    for wrong in ("", "general", "general=", "a=-1", "a=nan", "a=inf", "a=1,a=2", "a=0"):
        with pytest.raises(ValueError, match="--mix"):
            shares_of(wrong)
    with pytest.raises(ValueError, match="did you mean domain"):
        among({"domian": 1.0}, {"domain": 9, "general": 9})
    with pytest.raises(ValueError, match="no groups"):
        among({"domain": 1.0}, {"": 9})
    with pytest.raises(ValueError, match="nothing to train on"):
        among({"domain": 1.0}, {"domain": 0})
    assert among({"domain": 1.0}, {"domain": 9, "general": 9}) == {"domain": 1.0, "general": 0.0}


def test_temperature_lies_between_what_there_is_and_equal_shares():
    tokens = {"large": 1_000_000, "small": 10_000, "none": 0}
    assert tempered(tokens, 1) == pytest.approx({"large": 100 / 101, "small": 1 / 101})
    assert tempered(tokens, 0) == pytest.approx({"large": 0.5, "small": 0.5})
    assert tempered(tokens, 0.5) == pytest.approx({"large": 10 / 11, "small": 1 / 11})
    with pytest.raises(ValueError, match="from 0"):
        tempered(tokens, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 1000)), min_size=1, max_size=6), st.integers(1, 6000), st.integers(1, 5))
def test_no_source_is_read_more_often_than_it_may(groups, total, epochs):
    weights = [weight for weight, _ in groups]
    if not any(weights):
        return
    shares = {str(number): weight / sum(weights) for number, weight in enumerate(weights)}
    tokens = {str(number): count for number, (_, count) in enumerate(groups)}
    if epochs * sum(tokens[name] for name, wanted in shares.items() if wanted) < total:
        with pytest.raises(ValueError, match="epochs-per-source"):
            within_epochs(shares, tokens, total, epochs)
        return
    found = within_epochs(shares, tokens, total, epochs)
    assert math.isclose(sum(found.values()), 1)
    for name, wanted in shares.items():
        assert found[name] * total <= epochs * tokens[name] + 1e-6
        assert (found[name] == 0) == (wanted == 0)
    free = [name for name in shares if shares[name] and found[name] * total < epochs * tokens[name] - 1e-6]
    ratios = [found[name] / shares[name] for name in free]
    assert not ratios or math.isclose(min(ratios), max(ratios))  # what is over goes to the others in proportion
    assert not ratios or min(ratios) >= 1 - 1e-9


def test_groups_need_shares():
    with pytest.raises(ValueError, match="above 0"):
        Mixture([KINDS["windows"](TEXTS[1], 0)], [0.0], 1)
