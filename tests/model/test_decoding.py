"""One token more by the kernel is one token more by the modules; a row's numbers do not depend on what is computed beside it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fledge.arch import Arch
from fledge.model import Cache, Transformer, kernels
from fledge.model.checks import any_arch, disagreements, perturbed
from fledge.model.decoding import planned
from fledge.model.kernels import structures
from fledge.model.kernels.library import library
from fledge.model.kernels.pages import settle
from fledge.model.quantised import hold
from fledge.model.view import PADDING
from fledge.presets import gpt2, qwen3, shapes

KERNELS: Any = library()
pytestmark = pytest.mark.skipif(KERNELS is None, reason="no C++ compiler here")
KINDS = [torch.float32, torch.bfloat16]
SIZES: dict[str, Any] = {"vocabulary": 50, "context": 32}


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", range(12))
def test_a_step_is_that_of_the_modules(seed):
    assert disagreements(KERNELS, range(5 * seed, 5 * seed + 5)) == []


def test_a_wrong_step_is_noticed(monkeypatch):
    monkeypatch.setattr(structures, "RMS", structures.LAYER)
    assert disagreements(KERNELS, range(4))


def read(model: Transformer, texts: list[list[int]], order: list[int], slots: int) -> Cache:
    """A cache whose slots `order` hold these texts."""
    cache = model.cache(slots, 24)
    for slot, text in zip(order, texts, strict=True):
        model.hidden(torch.tensor([text]), cache=cache, slots=torch.tensor([slot]))
    return cache


@pytest.mark.parametrize("in_bits", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_a_row_is_the_same_bit_for_bit_whatever_is_beside_it(seed, kind, in_bits):
    draw = random.Random(seed)
    arch = any_arch(draw)
    model = perturbed(arch, seed).to(kind)
    if in_bits:
        hold(model, "int8")

    def text(length: int) -> list[int]:
        return [draw.randrange(arch.vocabulary) for _ in range(length)]

    mine, found = text(6), []
    with torch.inference_mode(), kernels.used():
        for count in (1, 2, 3, 9, 16, 21):
            order = draw.sample(range(24), count)
            cache = read(model, [text(draw.randint(1, 18)) for _ in order[1:]], order[1:], 24)
            assert planned(model, cache, model.embedding.weight) is not None
            steps = [torch.tensor([[token], *([other] for other in text(count - 1))]) for token in mine]
            with threads(2 if count == 9 else 1):
                found.append(torch.stack([model(tokens, cache=cache, slots=torch.tensor(order))[0] for tokens in steps]))
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_padding_are_passed_over(kind):
    model = perturbed(gpt2(32, 2, 2, **SIZES), 0).to(kind)
    with torch.inference_mode(), kernels.used():
        alone, among = (read(model, [[1, 2]], [1], 3) for _ in range(2))
        expected = model.hidden(torch.tensor([[3]]), cache=alone, slots=torch.tensor([1]))
        documents = torch.tensor([[PADDING], [0], [PADDING]])
        found = model.hidden(torch.tensor([[9], [3], [9]]), None, documents, among)
    assert torch.equal(found[1:2], expected)
    assert not found[[0, 2]].any()


def test_several_documents_in_a_slot_do_not_see_each_other():
    model = perturbed(qwen3(32, 2, 4, 2, 8, **SIZES), 0)
    tokens, positions, documents = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[0, 1, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1, 1]])
    with torch.inference_mode():
        whole = model(tokens, positions, documents)
        cache = model.cache(1, 8)
        with kernels.used():
            steps = [model(*(part[:, i : i + 1] for part in (tokens, positions, documents)), cache) for i in range(5)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "arch",
    [
        shapes.llama(32, 2, 4, 2, experts=4, **SIZES),
        replace(qwen3(32, 2, 4, 2, 8, **SIZES), dropout=0.1),
        shapes.gpt_oss(32, 2, 4, 2, 4, 2, 16, window=3, **SIZES),
    ],
)
def test_what_the_kernel_does_not_know_is_left_to_the_modules(arch: Arch):
    model = perturbed(arch, 0)
    unknown = not isinstance(arch.trunk.pattern[0].mlp, type(gpt2(32, 1).trunk.pattern[0].mlp))
    with torch.inference_mode(), kernels.used():
        cache = model.cache(1, 8)
        assert (planned(model, cache, model.embedding.weight) is None) == unknown
        steps = [model(torch.tensor([[token]]), cache=cache) for token in (3, 4, 5)]
    torch.testing.assert_close(torch.cat(steps, 1), model(torch.tensor([[3, 4, 5]])), rtol=0, atol=1e-4)


def test_with_gradients_or_autocast_the_modules_work():
    model = perturbed(gpt2(32, 1, 2, **SIZES), 0)
    with kernels.used():
        assert planned(model, model.cache(1, 8), model.embedding.weight) is None
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert planned(model, model.cache(1, 8), model.embedding.weight) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(20))
def test_few_rows_times_a_matrix(seed, kind):
    draw = torch.Generator().manual_seed(seed)
    outputs, inputs, rows = (int(torch.randint(1, most, (), generator=draw)) for most in (70, 200, 24))
    x, w, b = (torch.randn(shape, generator=draw).to(kind) for shape in ((rows, inputs), (outputs, inputs), (outputs,)))
    with torch.inference_mode(), kernels.used():
        found = kernels.linear(x, w, b)
        assert all(torch.equal(kernels.linear(row, w, b), expected) for row, expected in zip(x, found, strict=True))
    exact = F.linear(x.double(), w.double(), b.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-6 * float(exact.abs().max() + inputs))


def test_what_is_not_finite_stays_so():
    model = perturbed(gpt2(32, 1, 2, **SIZES), 0)
    with torch.inference_mode(), kernels.used():
        for bad in (torch.nan, torch.inf):
            model.get_parameter("decoder.blocks.0.mlp.inner.down.bias")[3] = bad
            assert not model(torch.tensor([[3]]), cache=model.cache(1, 8)).isfinite().any()


def test_weights_settle_side_by_side_and_stay_what_they_are():
    model = Transformer(gpt2(256, 2, 4, **SIZES))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    settle(list(model.parameters()))
    places = [weight.untyped_storage().data_ptr() for weight in model.parameters()]
    assert len(set(places)) == 1
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    settle(list(model.parameters()))
    assert [weight.untyped_storage().data_ptr() for weight in model.parameters()] == places
    model(torch.tensor([[1, 2]])).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
