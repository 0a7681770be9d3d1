"""Objectives beside labels: preferences, a teacher, rewards; each against the formula written out."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fledge.data.batches import IGNORED, Batch, Compared
from fledge.model import Transformer, initialise
from fledge.presets import gemma2, qwen3
from fledge.train import objective
from fledge.train.objective import Prefer, answer_logprobs, label_logprobs
from fledge.train.run import Preference

ARCH = qwen3(width=32, depth=1, head_size=16, mlp=48, vocabulary=40, context=16)


def a_model(seed: int = 0, arch=ARCH) -> Transformer:
    model = initialise(Transformer(arch), seed).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
    return model


def a_pair(reference: tuple[float, float] = (0.0, 0.0)) -> Compared:
    """One row: answers of 3 and of 2 tokens after questions of 2."""
    tokens = np.array([[5, 6, 7, 8, 5, 6, 9, 0]])
    labels = np.array([[IGNORED, 7, 8, 3, IGNORED, 9, 3, IGNORED]])
    positions, document = np.array([[0, 1, 2, 3, 0, 1, 2, 0]]), np.array([[0, 0, 0, 0, 1, 1, 1, -1]])
    return Compared(tokens, labels, positions, document, None, np.array([reference]))


def by_hand(model: Transformer) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probability of each answer of `a_pair`, each read alone."""
    one = model(torch.tensor([[5, 6, 7, 8]])).log_softmax(-1)[0]
    other = model(torch.tensor([[5, 6, 9]])).log_softmax(-1)[0]
    return one[1, 7] + one[2, 8] + one[3, 3], other[1, 9] + other[2, 3]


def test_a_log_probability_is_that_of_the_answer_read_alone():
    model = a_model()
    sums, counts = answer_logprobs(model, a_pair())
    torch.testing.assert_close(sums[0], torch.stack(by_hand(model)))
    assert counts.tolist() == [[3, 2]]


@pytest.mark.parametrize("arch", [ARCH, gemma2(32, 2, head_size=16, vocabulary=40, context=16)])
def test_chunks_of_log_probabilities_are_the_whole(monkeypatch, arch):
    model, batch = (
        a_model(arch=arch),
        Batch(np.arange(24).reshape(2, 12), np.where(np.arange(24) % 5, (7 * np.arange(24)) % 40, IGNORED).reshape(2, 12)),
    )
    whole = label_logprobs(model, batch)
    gradient = torch.autograd.grad(whole.square().sum(), model.embedding.weight)[0]
    monkeypatch.setattr(objective, "CHUNK", 4)
    parts = label_logprobs(model, batch)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), model.embedding.weight)[0], gradient)


@pytest.mark.parametrize(
    "goal", [Preference(0.3), Preference(2.0, length_normalised=True), Preference(0.5, sft=0.7), Preference(0.5, smoothing=0.2)]
)
def test_the_preference_is_the_formula(goal):
    model, reference = a_model(), (-9.0, -8.5)
    chosen, rejected = by_hand(model)
    a, b = (3, 2) if goal.length_normalised else (1, 1)
    margin = goal.beta * ((chosen - reference[0]) / a - (rejected - reference[1]) / b)
    expected = -(1 - goal.smoothing) * F.logsigmoid(margin) - goal.smoothing * F.logsigmoid(-margin) - goal.sft * chosen / 3
    prefer = Prefer(goal)
    found = prefer(model, a_pair(reference))
    torch.testing.assert_close(found, expected)
    parameters = list(model.parameters())
    torch.testing.assert_close(torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), atol=1e-5, rtol=1e-4)
    told = prefer.told()
    assert told["reward_margin"] == pytest.approx(margin.item(), rel=1e-4)
    assert told["reward_accuracy"] == (margin > 0).item()
    assert told["chosen_loss"] == pytest.approx(-chosen.item() / 3, rel=1e-5)
    assert not prefer.told()


def test_a_model_that_has_not_moved_has_the_loss_ln_2():
    model = a_model()
    with torch.no_grad():
        sums, _ = answer_logprobs(model, a_pair())
    assert float(Prefer(Preference())(model, a_pair(tuple(sums[0].tolist())))) == pytest.approx(math.log(2), rel=1e-5)
