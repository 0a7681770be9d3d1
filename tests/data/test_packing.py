"""Best-fit packing cuts no document that fits into a row, wastes little, and no document sees another."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.arch import Arch
from fledge.data.batches import IGNORED, PADDING, Windows
from fledge.data.corpus import Shards
from fledge.data.packing import Packed, best_fit
from fledge.model import Transformer, initialise
from fledge.presets import PRESETS

END = 0


def shards(lengths: list[int]) -> Shards:
    """Documents whose tokens are all different, each followed by END."""
    counter = iter(range(1, 10**6))
    documents = [np.array([next(counter) for _ in range(length)] + [END], np.int64) for length in lengths]
    return Shards([np.concatenate(documents)], [np.column_stack([np.cumsum([0, *map(len, documents[:-1])]), lengths])])


def plainly(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing as the textbook has it, one item after another."""
    rows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in rows if sum(row) + length <= capacity]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            rows.append([length])
    return rows


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 24).flatmap(lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), max_size=80))))
def test_many_at_once_is_one_after_another(given):
    capacity, lengths = given
    found = best_fit(Counter(lengths), capacity)
    rows = [[length for length, many in pattern for _ in range(many)] for pattern, count in found for _ in range(count)]
    assert Counter(length for row in rows for length in row) == Counter(lengths)
    assert sorted(map(sum, rows)) == sorted(map(sum, plainly(lengths, capacity)))  # of rows with the same room it may take any


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        best_fit({9: 1}, 8)


texts = st.tuples(st.lists(st.integers(1, 60), min_size=1, max_size=25), st.integers(2, 24), st.integers(0, 5), st.booleans())


@settings(max_examples=60, deadline=None)
@given(texts)
def test_each_token_is_a_label_once_and_only_long_documents_are_cut(stream):
    lengths, context, seed, moving = stream
    source = shards(lengths)
    packed = Packed(source, context, batch=1, seed=seed, moving=moving)
    home = {int(token): number for number in range(source.documents) for token in source.document(number)[0]}
    epochs = [[packed.batch_at(epoch * packed.examples + step)[0] for step in range(packed.examples)] for epoch in range(3)]
    for epoch in [*epochs, list(packed.in_order())]:
        labels = np.concatenate([batch.labels.ravel() for batch in epoch])
        assert sorted(labels[labels != IGNORED]) == sorted(source.window(0, source.tokens))
        assert (labels == IGNORED).sum() == packed.packing.padded
        pieces = Counter[int]()
        for batch in epoch:
            assert batch.document is not None
            assert batch.positions is not None
            assert ((batch.document == PADDING) == (batch.labels == IGNORED)).all()
            for one in range(batch.document.max() + 1):
                here = batch.document == one
                tokens, own = batch.tokens[here], batch.labels[here]
                assert batch.positions[here].tolist() == list(range(len(tokens)))
                assert (tokens[1:] == own[:-1]).all()
                owners = {home[int(token)] for token in [*tokens, *own] if token != END}
                assert len(owners) == 1
                pieces.update(owners)
        cut = {number for number, count in pieces.items() if count > 1}
        assert cut == {number for number, length in enumerate(lengths) if length + 1 > context}
        assert len(cut) == packed.packing.cut
    assert packed.packing.rows == len(
        plainly([r for n in lengths for r in [*[context] * ((n + 1) // context), (n + 1) % context] if r], context)
    )


def test_epochs_differ_in_what_shares_a_row():
    packed = Packed(shards([5, 6, 7, 8, 9, 10, 40, 50] * 12), 32, batch=1, seed=3)
    epochs = [
        {tuple(sorted(packed.spans(epoch, row))) for row in range(packed.examples)} for epoch in range(2)
    ]  # fmt: skip
    assert len(epochs[0] & epochs[1]) < packed.examples / 2
    again = Packed(shards([5, 6, 7, 8, 9, 10, 40, 50] * 12), 32, batch=1, seed=3)
    assert [packed.spans(1, row) for row in range(packed.examples)] == [again.spans(1, row) for row in range(packed.examples)]


def test_a_stream_cuts_more():
    dice = np.random.default_rng(0)
    lengths = dice.integers(1, 200, 3000).tolist()
    packing = Packed(shards(lengths), 128, batch=4).packing
    assert packing.cut == sum(length + 1 > 128 for length in lengths)
    assert packing.cut_by_stream == sum(
        np.unique(row).size > 1 for row in np.split(np.arange(sum(lengths) + 3000) // 128, np.cumsum(np.array(lengths) + 1)[:-1])
    )
    assert packing.cut < 0.65 * packing.cut_by_stream
    assert packing.padded < 0.02 * packing.tokens
    assert "no token is cropped" in str(packing)


def test_packed_equals_separate():
    """What a model makes of a document in a packed row is what it makes of it alone."""
    source = shards([5, 9, 3, 12, 30, 7, 2])
    model = initialise(Transformer(tiny(source)), 1).eval()
    packed = Packed(source, 16, batch=3, seed=1)
    with torch.inference_mode():
        for batch in packed.batch_at(0):
            tokens, positions, document = (torch.from_numpy(part) for part in (batch.tokens, batch.positions, batch.document))
            together = model(tokens, positions, document)
            assert batch.document is not None
            for row, one in sorted({(place, int(one)) for place in range(3) for one in batch.document[place] if one != PADDING}):
                here = document[row] == one
                alone = model(tokens[row, here][None])[0]
                assert torch.allclose(together[row, here], alone, atol=1e-5)


def tiny(source: Shards) -> Arch:
    return PRESETS["fledge-1m"].arch(vocabulary=int(source.window(0, source.tokens).max()) + 1, width=32, depth=2)


def test_packed_and_windows_agree_on_what_is_validated():
    source = shards([5, 9, 3, 12])
    both = [np.concatenate([batch.labels.ravel() for batch in kind.in_order()]) for kind in (Packed(source, 16, 2), Windows(source, 16, 2))]
    assert len({tuple(sorted(labels[labels != IGNORED])) for labels in both}) == 1
