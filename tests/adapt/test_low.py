"""Low-rank changes beside frozen weights: what they compute, what their gradients are, and that merging changes no score."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.adapt.low import Adapted, attach, changes_of, hold_as, is_adapted, maps_of, merge, trained, twin
from fledge.adapt.settings import Lora
from fledge.arch import Arch, Words
from fledge.arch.record import from_json
from fledge.data.batches import Batch, Source
from fledge.model import Transformer, initialise
from fledge.model.quantised import GROUP, Quantised
from fledge.presets import bert, gpt2, qwen3, t5
from fledge.train.objective import PredictTokens

ARCHS: dict[str, Arch] = {
    "gpt2": gpt2(32, 2, 2, vocabulary=50, context=16, dropout=0.0),
    "qwen3": qwen3(width=32, depth=2, head_size=16, mlp=64, vocabulary=50, context=16),
    "bert": bert(32, 2, 2, vocabulary=50, context=16, dropout=0.0),
    "t5": t5(32, 1, vocabulary=50, context=16, dropout=0.0),
}
TOKENS = torch.arange(20).view(2, 10)


def changed(arch: Arch, lora: Lora) -> Transformer:
    """A model with changes that are not nothing."""
    model = attach(initialise(Transformer(arch), 1), changes_of(maps_of(Transformer(arch)), lora), seed=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in trained(model).items():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator) * (0.1 if name.endswith("magnitude") else 1)
    return model.eval()


def scores(model: Transformer) -> Tensor:
    return model(TOKENS, memory=model.encode(TOKENS)) if len(model.arch.stacks) == 2 else model(TOKENS)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("name", ARCHS)
def test_merging_changes_no_score(name, dora):
    model = changed(ARCHS[name], Lora(4, ranks=((r".*\.0\..*", 2),), dora=dora))
    plain = scores(initialise(Transformer(ARCHS[name]), 1).eval())
    before = scores(model)
    assert not torch.allclose(before, plain, atol=1e-3)
    whole = merge(model)
    assert not is_adapted(whole)
    assert whole.state_dict().keys() == Transformer(ARCHS[name]).state_dict().keys()
    torch.testing.assert_close(scores(whole), before, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_gradients_are_those_of_the_dense_weights(name):
    """With W' = W + s B A, dL/dA = s Bᵀ dL/dW' and dL/dB = s dL/dW' Aᵀ, where a fused map has the rows of all its parts."""
    model = changed(ARCHS[name], Lora(3, alpha=5.0))
    dense = merge(twin(model))
    for one in (model, dense):
        F.cross_entropy(one(TOKENS).flatten(0, 1), TOKENS.flatten().roll(1)).backward()
    lows = {id(part.low): part.low for part in model.modules() if isinstance(part, Adapted)}
    grads = {key: torch.zeros_like(low.b @ low.a) for key, low in lows.items()}
    for path, part in model.named_modules():
        if isinstance(part, Adapted):
            grads[id(part.low)][part.rows] = dense.get_parameter(f"{path}.weight").grad  # pyrefly: ignore[unsupported-operation]
    assert len(lows) == (4 if name == "gpt2" else 7) * 2
    for key, low in lows.items():
        torch.testing.assert_close(low.a.grad, low.scale * low.b.detach().T @ grads[key], atol=1e-6, rtol=1e-3)
        torch.testing.assert_close(low.b.grad, low.scale * grads[key] @ low.a.detach().T, atol=1e-6, rtol=1e-3)
    assert trained(model).keys() == {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_doras_gradients_count_the_norm_as_a_constant():
    """m / ‖V‖ · V with ‖V‖ held: written out with autograd on one map."""
    model = changed(ARCHS["qwen3"], Lora(2, targets=("o_proj",), dora=True))
    part = next(part for part in model.modules() if isinstance(part, Adapted))
    x, low, inner = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), part.low, part.inner
    part(x).square().sum().backward()
    found = {name: p.grad.clone() for name, p in low.named_parameters() if p.grad is not None}
    low.zero_grad()
    together = inner.weight + low.scale * low.b @ low.a
    assert low.magnitude is not None
    direct = (low.magnitude / together.norm(dim=1).detach())[:, None] * together
    (x @ direct.T).square().sum().backward()
    for name, p in low.named_parameters():
        torch.testing.assert_close(found[name], p.grad, atol=1e-5, rtol=1e-4)


def test_an_unlearned_change_changes_nothing():
    for dora in (False, True):
        plain = initialise(Transformer(ARCHS["qwen3"]), 1).eval()
        model = attach(twin(plain), changes_of(maps_of(plain), Lora(4, dora=dora)))
        torch.testing.assert_close(scores(model), scores(plain), atol=1e-5, rtol=1e-5)


UNTIED = replace(ARCHS["qwen3"], head=Words(tied=False))


@pytest.mark.parametrize("arch", [ARCHS["qwen3"], UNTIED, ARCHS["t5"]], ids=["tied", "untied", "pairs"])
def test_vectors_of_tokens_are_learned_as_in_the_whole_table(arch):
    """Scores and losses are those of the merged model, and the gradients those that its whole tables have there."""
    plain = initialise(Transformer(arch), 1)
    model = attach(twin(plain), changes_of(maps_of(plain), Lora(4)), tokens=(7, 3))
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    tables = ["embedding", *(["head"] if not arch.head.tied else [])]
    assert {name for name in trained(model) if ".low." not in name} == {f"{table}.rows.values" for table in tables}
    dense = merge(twin(model))
    torch.testing.assert_close(scores(model), scores(dense), atol=2e-5, rtol=1e-4)
    assert (scores(dense) - scores(plain)).abs().max() > 0.01
    assert torch.equal(plain.embedding.weight, initialise(Transformer(arch), 1).embedding.weight)
    batch = Batch(TOKENS.numpy(), TOKENS.roll(-1, 1).numpy())
    if len(arch.stacks) == 2:
        batch = replace(batch, source=Source(TOKENS.numpy()))
    losses = [PredictTokens(chunk=8)(one.train(), batch) for one in (model, dense)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for table in tables:
        found, whole = model.get_parameter(f"{table}.rows.values").grad, dense.get_parameter(f"{table}.weight").grad
        assert whole is not None
        torch.testing.assert_close(found, whole[[7, 3]], atol=1e-5, rtol=1e-4)


def test_tokens_that_are_not_there_are_refused():
    model = Transformer(ARCHS["qwen3"])
    with pytest.raises(ValueError, match=r"adapter\.tokens has 50, but this model has tokens 0 to 49"):
        attach(model, [], tokens=(3, 50))
    with pytest.raises(ValueError, match="each once"):
        Lora(tokens=(3, 3))


def test_twins_share_their_weights_and_nothing_else():
    plain = initialise(Transformer(ARCHS["qwen3"]), 1).eval()
    before = scores(plain)
    model = attach(twin(plain), changes_of(maps_of(plain), Lora(4, targets=("q_proj",))))
    assert not is_adapted(plain)
    assert {p.data_ptr() for p in plain.parameters()} < {p.data_ptr() for p in model.parameters()}
    merge(model)
    assert torch.equal(scores(plain), before)


def test_patterns_choose_maps_and_near_misses_are_named():
    maps = maps_of(Transformer(ARCHS["gpt2"]))
    assert [change.map.name for change in changes_of(maps, Lora(targets=("attn.c_attn",)))] == [
        f"transformer.h.{i}.attn.c_attn" for i in range(2)
    ]
    assert [change.rank for change in changes_of(maps, Lora(8, targets=(r"mlp\..*",), ranks=(("c_proj", 2),)))] == [8, 2, 8, 2]
    with pytest.raises(ValueError, match=r"'attn.c_atn': did you mean attn.c_attn\?"):
        changes_of(maps, Lora(targets=("attn.c_atn",)))
    with pytest.raises(ValueError, match="at least 1"):
        Lora(0)


def test_4_and_8_bits_are_the_dequantised_product():
    linear = torch.nn.Linear(4 * GROUP, 24)
    for kind, error in (("int8", 0.01), ("int4", 0.11)):
        held = Quantised(linear, kind)
        assert held.numbers.nbytes * (4 if kind == "int8" else 8) == linear.weight.nbytes
        assert (held.weight - linear.weight).abs().max() < error * linear.weight.abs().max()
        x = torch.randn(2, 7, 4 * GROUP, requires_grad=True)
        grad = torch.randn(2, 7, 24)
        held(x).backward(grad)
        torch.testing.assert_close(held(x), F.linear(x, held.weight, linear.bias))
        torch.testing.assert_close(x.grad, grad @ held.weight)
        few = torch.randn(2, 4 * GROUP).bfloat16()
        torch.testing.assert_close(held(few), F.linear(few, held.weight.bfloat16(), linear.bias.bfloat16()), atol=0.03, rtol=0.03)
    with pytest.raises(ValueError, match="int8"):
        Quantised(torch.nn.Linear(33, 4), "int4")


@pytest.mark.filterwarnings("ignore")
def test_8_and_4_bits_are_as_near_as_torchaos():
    quantization = pytest.importorskip("torchao.quantization")
    grid = quantization.quant_primitives
    linear = torch.nn.Linear(4 * GROUP, 24)
    weight, theirs = linear.weight.detach().clone(), torch.nn.Sequential(linear)
    int8, int4 = Quantised(linear, "int8").weight, Quantised(linear, "int4").weight
    quantization.quantize_(theirs, quantization.Int8WeightOnlyConfig())
    held: Any = theirs[0]
    assert (int8 - held.weight.dequantize()).abs().max() <= weight.abs().max() / 127
    bounds = ((1, GROUP), torch.uint8, 0, 15)
    scale, zero = grid.choose_qparams_affine(weight, grid.MappingType.ASYMMETRIC, *bounds)
    steps = grid.quantize_affine(weight, bounds[0], scale, zero, *bounds[1:])
    found = grid.dequantize_affine(steps, bounds[0], scale, zero, *bounds[1:])
    assert (int4 - weight).abs().mean() <= 1.05 * (found - weight).abs().mean()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_an_adapter_learns_beside_quantised_weights(kind):
    model = changed(ARCHS["qwen3"], Lora(4))
    before = scores(model)
    hold_as(model, kind)
    assert 0 < (scores(model) - before).abs().max() < 0.2 * before.abs().max()
    scores(model).square().mean().backward()
    assert all(p.grad is not None for p in trained(model).values())
    assert all(bool(p.grad.any()) for p in trained(model).values() if p.grad is not None)


def test_ranks_are_written_as_pairs_or_by_name():
    assert from_json(Lora, {"ranks": {"v_proj": 4, "mlp": 2}}) == from_json(Lora, {"ranks": [["v_proj", 4], ["mlp", 2]]})
