"""Starting weights: the same for the same seed, near ln V, as the table says."""

import inspect
import math

import pytest
import torch
from torch.nn import functional as F

from fledge.arch import Classes, LayerNorm, Transform, Words
from fledge.model import Transformer, initialise, with_new_head
from fledge.presets import PRESETS, gpt2, qwen3
from fledge.presets.shapes import modernbert


@pytest.mark.parametrize("shape", [gpt2, qwen3])
def test_same_seed_same_weights(shape):
    arch = shape(32, 3, vocabulary=100, context=16)
    first, same, other = (initialise(Transformer(arch), seed) for seed in (1, 1, 2))
    for (name, a), b, c in zip(first.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.dim() == 1 or not torch.equal(a, c), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shape", {preset.shape: 0 for preset in PRESETS.values()}, ids=lambda shape: shape.__name__)
def test_loss_starts_at_chance(shape, tied):
    dials = {"tied": tied} if "tied" in inspect.signature(shape).parameters else {}
    arch = shape(width=64, depth=2, vocabulary=500, context=32, **dials)
    model = initialise(Transformer(arch)).eval()
    tokens, targets = torch.randint(500, (2, 8, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = F.cross_entropy(
            model(tokens, memory=model.encode(tokens) if len(arch.stacks) == 2 else None).flatten(0, 1), targets.flatten()
        )
    assert float(loss) == pytest.approx(math.log(500), abs=0.05)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shape", [gpt2, qwen3])
def test_the_table(shape, tied):
    model = initialise(Transformer(shape(128, 4, vocabulary=300, context=64, tied=tied)))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            expected = 0.02 / math.sqrt(8) if ".o." in name or ".down." in name else 0.02
            if not tied and ("embedding" in name or "positions" in name):
                expected = 1.0
            assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.05), name


def test_new_head_keeps_the_rest():
    model = initialise(Transformer(qwen3(32, 2, vocabulary=100, context=16)), 3)
    classifier = with_new_head(model, Classes(("a", "b")), seed=1)
    again = with_new_head(model, Classes(("a", "b")), seed=1)
    assert classifier.trunk is model.trunk
    assert classifier.embedding is model.embedding
    assert classifier.arch.labels == ("a", "b")
    assert torch.equal(classifier.get_parameter("head.weight"), again.get_parameter("head.weight"))
    assert classifier(torch.tensor([[1, 2, 3]])).shape == (1, 2)
    back = with_new_head(classifier, Words())
    assert torch.equal(back(torch.tensor([[1, 2, 3]])), model(torch.tensor([[1, 2, 3]])))


@pytest.mark.parametrize(
    ("transform", "kept"), [(Transform("gelu", LayerNorm(1e-5, bias=False), bias=False), True), (Transform("tanh"), False)]
)
def test_an_equal_transform_is_kept(transform, kept):
    model = initialise(Transformer(modernbert(16, 2, 2, vocabulary=20, context=16)))
    classifier = with_new_head(model, Classes(("a", "b"), "mean", transform, bias=True), seed=1)
    assert (classifier.head.transform is model.head.transform) == kept
    assert torch.equal(classifier.get_parameter("head.bias"), torch.zeros(2))
    assert classifier(torch.tensor([[1, 2, 3]])).shape == (1, 2)
