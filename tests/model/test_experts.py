"""Experts grouped are experts one token at a time; their balancing loss is that of the field."""

import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from fledge.arch import Mlp, Moe
from fledge.model import Transformer, initialise
from fledge.model.experts import Experts, one_token_at_a_time
from fledge.presets.shapes import gpt_oss, llama

SPECS = {
    "normalised": Moe(Mlp(6), 5, 2),
    "over all": Moe(Mlp(6, "gelu", bias=True), 7, 3, normalised=False),
    "one of one": Moe(Mlp(3), 1, 1),
    "all": Moe(Mlp(4), 3, 3, router_bias=True),
    "not gated": Moe(Mlp(6, "relu", gated=False, bias=True), 4, 1, normalised=False),
    "cut": Moe(Mlp(6, "gelu_sigmoid", bias=True, limit=0.3, up_offset=1.0), 4, 2),
    "many": Moe(Mlp(2), 64, 2),
}


def perturbed(spec: Moe, width: int = 8) -> Experts:
    torch.manual_seed(0)
    experts = Experts(spec, width).double()
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return experts


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (2, 40)])
def test_grouped_is_one_token_at_a_time(name, shape):
    experts = perturbed(SPECS[name])
    x = torch.randn(*shape, 8, dtype=torch.float64, requires_grad=True)
    wanted = [x, *experts.parameters()]
    results = [experts(x), one_token_at_a_time(experts, x)]
    torch.testing.assert_close(*results)
    toward = torch.randn_like(x)
    fast, plain = (torch.autograd.grad(result, wanted, toward, allow_unused=True) for result in results)
    for one, other in zip(fast, plain, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(zero if one is None else one, zero if other is None else other)


def test_imbalance_is_the_loss_that_transformers_adds():
    experts = perturbed(Moe(Mlp(6), 5, 2)).train()
    x = torch.randn(4, 9, 8, dtype=torch.float64)
    experts(x)
    theirs = load_balancing_loss_func((experts.router(x.flatten(0, 1)),), 5, 2)
    torch.testing.assert_close(experts.imbalance, theirs, check_dtype=False)


def test_imbalance_is_least_when_all_are_used_alike():
    experts = perturbed(Moe(Mlp(6), 4, 1)).train()
    with torch.no_grad():
        experts.router.weight.copy_(4 * torch.eye(8)[:4])
    for tokens, expected in ((torch.eye(8)[:4], 1.0), (torch.eye(8)[:1].expand(4, -1), 4.0)):
        experts(4 * tokens.double())
        assert experts.imbalance is not None
        assert experts.imbalance.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("shape", [llama, gpt_oss])
def test_a_model_gives_the_sum_of_its_layers(shape):
    model = initialise(Transformer(shape(32, 2, heads=2, vocabulary=50, context=32, experts=8))).train()
    assert model.balancing_loss() == 0
    model(torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0)))
    loss = model.balancing_loss()
    experts = [part for part in model.modules() if isinstance(part, Experts)]
    assert 2 * 0.001 * experts[0].spec.chosen * 0.99 < loss.item() < 2 * 0.001 * 8
    loss.backward()
    assert all(part.router.weight.grad is not None and part.router.weight.grad.abs().max() > 0 for part in experts)
    assert Transformer(llama(32, 1, vocabulary=50)).balancing_loss() == 0
