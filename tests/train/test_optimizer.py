from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from fledge.arch import Stack
from fledge.model import Transformer, initialise
from fledge.presets import gpt2, qwen3
from fledge.presets.shapes import gpt_oss, t5
from fledge.train import optimizer
from fledge.train.optimizer import Optimizer, kinds, orthogonal
from fledge.train.run import AdamW, Muon


def small() -> Transformer:
    return initialise(Transformer(qwen3(32, 2, head_size=16, mlp=64, vocabulary=64, context=16)))


def fill_gradients(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def test_adamw_has_the_bits_of_torchs_own():
    def trained(kind, **more) -> list[torch.Tensor]:
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in ((7, 5), (3,))]
        made = kind([{"params": [p], "lr": 0.1, "weight_decay": decay} for p, decay in zip(parameters, (0.2, 0.0), strict=True)], **more)
        for step in range(4):
            for p in parameters:
                p.grad = None if step == 1 and p.ndim == 1 else torch.randn_like(p)
            made.step()
        return [part for p in parameters for part in (p, *made.state[p].values())]

    ours = trained(optimizer.AdamW, betas=(0.9, 0.95), eps=1e-8)
    theirs = trained(torch.optim.AdamW, betas=(0.9, 0.95), eps=1e-8, fused=True)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_every_parameter_has_one_kind_and_the_right_one():
    for arch in (
        gpt2(32, 2, 2, vocabulary=64, context=16),
        gpt2(32, 2, 2, vocabulary=64, context=16, tied=False),
        qwen3(64, 2, vocabulary=64, context=16),
    ):
        model = Transformer(arch)
        groups = kinds(model)
        names = [name for group in groups.values() for name in group]
        assert sorted(names) == sorted(name for name, _ in model.named_parameters())
        assert all(p.ndim == 2 for p in groups["matrices"].values())
        assert {"embedding.weight", "decoder.positions.weight", "head.weight"}.issuperset(groups["embeddings"])
        assert all(p.ndim == 1 for p in groups["vectors"].values())


def test_decay_touches_matrices_only():
    model = small()
    before = {name: p.clone() for name, p in model.named_parameters()}
    recipe = AdamW(rate=0.1, weight_decay=0.5)
    ours = Optimizer(model, recipe)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    ours.step(0.0)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, before[name] * (0.95 if ".blocks." in name and p.ndim == 2 else 1.0), msg=name)


def test_muon_is_torchs_muon(monkeypatch):
    """Torch's own, one matrix at a time, with its rounding to bf16 taken out."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    ours, theirs = small(), small()
    mine = Optimizer(ours, Muon(rate=0.02, momentum=0.9, weight_decay=0.1, clip=0))
    reference = torch.optim.Muon(
        kinds(theirs)["matrices"].values(), lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(4):
        fill_gradients(ours, step)
        fill_gradients(theirs, step)
        mine.step(1.0)
        reference.step()
    for name, p in kinds(ours)["matrices"].items():
        torch.testing.assert_close(p, theirs.get_parameter(name), rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 16), (2, 16, 40)])
def test_orthogonal_brings_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.3
    assert values.max() < 1.3


@pytest.mark.parametrize("recipe", [AdamW(clip=0.5), Muon(clip=0.5)])
def test_clipping_is_torchs_over_all_gradients_together(recipe):
    one, other = small(), small()
    ours, reference = Optimizer(one, recipe), Optimizer(other, replace(recipe, clip=0))
    for step in range(3):
        fill_gradients(one, step)
        fill_gradients(other, step)
        assert torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5) > 0.5
        ours.step(float(ours.norm()))
        reference.step(0.5)
    expected = reference.tensors()
    assert all(torch.allclose(tensor, expected[name], rtol=1e-5, atol=1e-8) for name, tensor in ours.tensors().items())
    torch.testing.assert_close(list(one.parameters()), list(other.parameters()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recipe", [AdamW(), Muon()])
def test_state_moves_to_another_optimizer_whole(recipe):
    one, other = small(), small()
    first = Optimizer(one, recipe)
    for step in range(3):
        fill_gradients(one, step)
        first.step(1.0)
    other.load_state_dict(one.state_dict())
    second = Optimizer(other, recipe)
    second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
    for model, part in ((one, first), (other, second)):
        fill_gradients(model, 9)
        part.step(1.0)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"nothing\.weight/exp_avg \(3,\), which fits no trained parameter"):
        second.load({"nothing.weight/exp_avg": torch.zeros(3)})


def test_frozen_parameters_stay(monkeypatch):
    model = small()
    for name, p in model.named_parameters():
        p.requires_grad = ".blocks.1." in name
    assert all(".blocks.1." in name for name in Optimizer(model, Muon()).names.values())
    for p in model.parameters():
        p.requires_grad = False
    with pytest.raises(ValueError, match="unfreeze"):
        optimizer.Optimizer(model, AdamW())


def test_each_expert_is_a_matrix_of_its_own():
    """Muon steps the experts of one parameter as it would step each alone; their rows of biases are vectors."""
    model = initialise(Transformer(gpt_oss(16, 2, 4, 2, 2, 1, 8, vocabulary=64, context=16)))
    groups = kinds(model)
    assert not any(name.endswith(("bias", "sinks")) for name in groups["matrices"])
    experts = [p for name, p in groups["matrices"].items() if p.ndim == 3]
    assert len(experts) == 2 * 3
    fill_gradients(model, 0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    ours = Optimizer(model, Muon(rate=1.0, adamw_rate=0.0, weight_decay=0.0))
    ours.step(1.0)
    for name, p in groups["matrices"].items():
        if p.ndim == 3 and p.grad is not None:
            moved = (before[name] - p) / (0.2 * max(p.shape[-2:]) ** 0.5)
            torch.testing.assert_close(moved, torch.cat([orthogonal(g[None]) for g in p.grad]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("recipe", [AdamW(rate=1e-2, eps=1e-15, clip=0), Muon(rate=1e-2, adamw_rate=1e-2, eps=1e-15, clip=0)])
def test_a_scale_in_the_queries_learns_like_one_outside_of_them(recipe):
    inside = t5(32, 2, heads=2, head_size=16, vocabulary=64, dropout=0.0)
    outside = replace(inside, encoder=without_scale(inside.encoder), decoder=without_scale(inside.decoder))
    tokens, source, labels = torch.randint(64, (3, 4, 12), generator=torch.Generator().manual_seed(0))
    scores = []
    for arch in (inside, outside):
        model = initialise(Transformer(arch), 1).double()
        optimizer = Optimizer(model, recipe)
        for _ in range(5):
            F.cross_entropy(model(tokens, memory=model.encode(source)).flatten(0, 1), labels.flatten()).backward()
            optimizer.step(float(optimizer.norm()))
            optimizer.zero_grad()
        scores.append(model(tokens, memory=model.encode(source)))
    assert inside.trunk.pattern[0].attention.query_share == 0.25
    torch.testing.assert_close(*scores, rtol=1e-7, atol=1e-7)


def without_scale(stack: Stack | None) -> Stack:
    """Its attention with the scale that is usual."""
    assert stack is not None
    blocks = (
        replace(block, attention=replace(block.attention, scale=None), across=block.across and replace(block.across, scale=None))
        for block in stack.pattern
    )
    return replace(stack, pattern=tuple(blocks))
