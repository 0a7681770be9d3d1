"""What torch's compiler makes of a training step on a GPU, as far as a CPU can tell: the same numbers by the same ways."""

import functools
from typing import Any

import pytest
import torch

from fledge import arch
from fledge.model import Transformer, initialise, kernels
from fledge.model.attention import attend_plainly
from fledge.model.view import Layout, View, block_mask, sees
from fledge.train.objective import PredictTokens, chunk_of
from tests.train.families import FAMILIES, ODD, Steps

EVERY = {**FAMILIES, **ODD}


def gradients(name: str, on_gpu: bool) -> dict[str, torch.Tensor]:
    """Of two micro-batches, one of padded and one of full rows."""
    model = initialise(Transformer(EVERY[name])).train()
    with kernels.used(on_gpu, "cuda" if on_gpu else "cpu"):
        for part in Steps(EVERY[name]).batch_at(0):
            PredictTokens()(model, part).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("name", EVERY)
def test_the_pieces_that_are_compiled_are_the_model(name, monkeypatch):
    pieces = []

    def noted(function: Any) -> Any:
        pieces.append(function.__name__)
        return function

    monkeypatch.setattr(kernels, "compiled", noted)
    same(gradients(name, on_gpu=True), gradients(name, on_gpu=False))
    blocks = 0 if name in ("experts", "gpt_oss") else sum(stack.depth for stack in EVERY[name].stacks.values())
    assert pieces.count("pass_on") == 2 * blocks
    assert pieces.count("fusible_cross_entropy") == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of torch's compiler, at its own code
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'>")
@pytest.mark.parametrize("name", EVERY)
def test_the_compiler_can_follow_them(name, monkeypatch):
    follow = functools.cache(functools.partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(kernels, "compiled", follow)
    same(gradients(name, on_gpu=True), gradients(name, on_gpu=False))


@pytest.mark.parametrize("seed", range(20))
def test_a_cross_entropy_in_two_passes_is_the_plain_one(seed):
    torch.manual_seed(seed)
    scores, labels = 9 * torch.randn(7, 33, dtype=torch.float64), torch.randint(33, (7,))
    ours, theirs = scores.clone(), scores.clone()
    assert torch.allclose(kernels.fusible_cross_entropy(ours, labels), kernels.cross_entropy(theirs, labels))
    assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("reach", [(None, 0), (3, 0), (2, 2), (None, None)])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_blocks_of_attention_are_what_a_query_sees(reach, across, monkeypatch):
    from torch.nn.attention.flex_attention import create_mask, flex_attention

    monkeypatch.setattr(kernels, "compiled", lambda function: function)
    places = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 0, 0, 1]])
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1], [0, 0, 0, 0, 0, 1, -1, -1]])
    layout = Layout(places[:, 3:], documents[:, 3:], places, documents, across=across)
    for given in (layout, Layout(places[:1], None, places[:1], None)):
        blocks = block_mask(given, reach)
        made = create_mask(blocks.mask_mod, len(sees(given, reach)), 1, given.queries.shape[1], given.keys.shape[1], device="cpu")
        assert torch.equal(made, sees(given, reach))
        view = View(given, arch.Attention(4, 2, 16, reach))
        q, k, v = (
            torch.randn(len(made), heads, length, 16) for heads, length in ((4, made.shape[2]), (2, made.shape[3]), (2, made.shape[3]))
        )
        ours = flex_attention(q, k, v, block_mask=blocks, scale=view.scale, enable_gqa=True)
        real = made.any(-1, keepdim=True)
        assert torch.allclose(ours * real, attend_plainly(q, k, v, view).nan_to_num() * real, atol=1e-6)


def test_on_a_gpu_the_scores_that_exist_at_once_are_many_but_no_more_than_room_is_for():
    assert chunk_of(100_000, 50_304, "cpu") == 1024
    for tokens in (10, 8192, 16_384, 100_000):
        chunk = chunk_of(tokens, 50_304, "cuda")
        assert chunk * 50_304 <= 2**29 * 1.01
        assert -(-tokens // chunk) * chunk < tokens + 64 * -(-tokens // chunk) or chunk == 1024
