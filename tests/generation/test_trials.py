"""A share of the mixes and of the ways of reading; all of them: `make campaign NAME=co_tenants` and `cached`."""

import random

import pytest

from fledge.generation import Engine, Request, Sampling
from tests.generation.trials import COMMON, LETTERS, SHAPES, TOKENIZER, CoTenants, Ways, alone, model, told


@pytest.fixture(scope="module")
def co_tenants(tmp_path_factory) -> CoTenants:
    return CoTenants(tmp_path_factory.mktemp("tenants"))


@pytest.fixture(scope="module")
def ways(tmp_path_factory) -> Ways:
    return Ways(tmp_path_factory.mktemp("ways"))


@pytest.mark.parametrize("kind", [*SHAPES, "untouched"])
@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 22), marks=pytest.mark.slow)], ids=["few", "more"])
def test_neighbours_change_no_bit(kind, seeds, co_tenants):
    assert [wrong for seed in seeds if (wrong := co_tenants(kind, seed))] == []


def test_without_the_guarantee_they_do(co_tenants):
    """So that the mixes are known to show it."""
    assert any(co_tenants.differing("default", "float32", random.Random(seed), together=True) for seed in range(20))


@pytest.mark.parametrize("kind", Ways.KINDS)
@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 30), marks=pytest.mark.slow)], ids=["few", "more"])
def test_every_way_ends_in_the_same_text(kind, seeds, ways):
    assert [wrong for seed in seeds if (wrong := ways(kind, seed))] == []


def test_another_text_is_noticed(ways):
    network, request = model("default"), Request(COMMON, 10, Sampling(temperature=0.0), ())
    made = alone(Engine(network, TOKENIZER), request)[0]
    assert ways.unlike("default", network, request, made) is None
    assert "token 3 is" in (ways.unlike("default", network, request, [*made[:3], made[3] ^ 1, *made[4:]]) or "")


@pytest.mark.parametrize("shape", ["default", "windowed", "t5"])
def test_equal_beginnings_are_read_once(shape):
    engine = Engine(model(shape), TOKENIZER, 2, chunk=8)
    texts = [[*COMMON, *LETTERS[:5]]] * 3 + [[*COMMON, *LETTERS[5:9]]]
    rows = [engine.submit(Request(text, 3, Sampling(seed=number), ())) for number, text in enumerate(texts)]
    while engine.step():
        pass
    both = shape == "t5"
    assert [row.reused for row in rows] == ([0, 1, 1, 0] if both else [0, 39, 39, 32])
    if both:
        assert rows[0].memory is rows[1].memory is rows[2].memory is not rows[3].memory
    for row, text in zip(rows, texts, strict=True):
        fresh = Engine(model(shape), TOKENIZER, 2, chunk=8, kept=0)
        assert told(row) == alone(fresh, Request(text, 3, Sampling(seed=rows.index(row)), ()))
        assert fresh.prefixes.bytes == 0


def test_what_is_known_has_a_bound():
    engine = Engine(model("default"), TOKENIZER, 1, chunk=8, kept=40_000)
    dice = random.Random(0)
    for _ in range(20):
        alone(engine, Request(dice.choices(LETTERS, k=40), 1))
        assert 0 < engine.prefixes.bytes <= 40_000
    again = engine.submit(Request([*COMMON, *LETTERS][:40], 1))
    while engine.step():
        pass
    assert again.reused == 0


def test_a_long_prompt_does_not_hold_up_the_others():
    engine = Engine(model("default"), TOKENIZER, 3, chunk=4)
    first = engine.submit(Request([5], None, Sampling(temperature=0.0), ()))
    engine.step()
    long, short = (engine.submit(Request(LETTERS[:length], 5, Sampling(temperature=0.0), ())) for length in (32, 3))
    steps = 0
    while not long.tokens:
        written = len(first.tokens)
        engine.step()
        assert len(first.tokens) == written + 1
        steps += 1
        assert short.tokens or steps < 3
    assert steps == 8


def test_who_leaves_frees_a_slot_at_once():
    engine = Engine(model("windowed"), TOKENIZER, 1, chunk=4)
    wanted = Request(LETTERS[:20], 5, Sampling(temperature=0.0), ())
    expected = alone(engine, wanted)
    for steps in range(9):
        leaving, staying = engine.submit(Request(LETTERS[3:23], 5, stop_tokens=())), engine.submit(wanted)
        for _ in range(steps):
            engine.step()
        engine.cancel(leaving)
        engine.cancel(leaving)
        while engine.step():
            pass
        assert told(staying) == expected
        assert int(engine.cache.filled.sum()) == 0
    assert not engine.step()
