"""Objectives beside labels: preferences, a teacher, rewards; each against the formula written out."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fledge.data.batches import IGNORED, Batch, Compared
from fledge.model import Transformer, initialise
from fledge.presets import gemma2, qwen3
from fledge.text import FORMATS, Message, Tokenizer
from fledge.train import objective
from fledge.train.loop import Stopped
from fledge.train.objective import Distil, Prefer, Reinforce, answer_logprobs, label_logprobs
from fledge.train.rollouts import Answered, Question, Rollouts, advantages, same_number, worth_named
from fledge.train.run import AdamW, Constant, Data, Distillation, Machine, Plan, Preference, Reward, Run
from fledge.train.run import Batch as Shape
from tests.train.test_training import assert_same_end, interrupt_at
from tests.train.toy import go

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
    return Compared(tokens, labels, positions, document, reference=np.array([reference]))


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
    assert Prefer(Preference())(model, a_pair(tuple(sums[0].tolist()))).item() == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("goal", [Distillation(1.0), Distillation(0.3, temperature=2.0)])
def test_distillation_is_the_formula_and_nothing_where_both_agree(monkeypatch, goal):
    monkeypatch.setattr(objective, "CHUNK", 3)
    model, teacher, batch = a_model(1), a_model(2), a_pair()
    alone = Batch(batch.tokens[:, :4], batch.labels[:, :4])
    scores, taught = (one(torch.tensor([[5, 6, 7, 8]]))[0, 1:] for one in (model, teacher))
    cool, aim = ((part / goal.temperature).log_softmax(-1) for part in (scores, taught.detach()))
    words = F.cross_entropy(scores, torch.tensor([7, 8, 3]), reduction="sum")
    divergence = goal.temperature**2 * (aim.exp() * (aim - cool)).sum()
    distil = Distil(goal, teacher)
    found = distil(model.eval(), alone)
    torch.testing.assert_close(found, goal.share * divergence + (1 - goal.share) * words)
    assert distil.told() == pytest.approx({"divergence": divergence.item(), "words": words.item()})
    expected = torch.autograd.grad(goal.share * divergence + (1 - goal.share) * words, model.embedding.weight)
    torch.testing.assert_close(torch.autograd.grad(distil(model, alone), model.embedding.weight), expected)
    assert Distil(Distillation(1.0), model)(model, alone).item() == pytest.approx(0, abs=1e-9)


def test_an_advantage_is_relative_to_the_answers_of_its_question():
    rewards = np.array([1.0, 0, 0, 1, 2, 2, 2, 2])
    assert advantages(rewards, Reward(samples=4, scaled=False)).tolist() == [0.5, -0.5, -0.5, 0.5, 0, 0, 0, 0]
    assert advantages(rewards, Reward(samples=4)) == pytest.approx([1, -1, -1, 1, 0, 0, 0, 0], abs=1e-5)


def test_the_policys_gradient_is_the_formula():
    """Per answer the mean over its tokens of -A log π, and with kl the estimator r - log r - 1 of what it moved away by."""
    model, reference = a_model(1), a_model(2)
    tokens, labels = np.array([[5, 6, 7, 8], [5, 6, 9, 0]]), np.array([[IGNORED, 7, 8, 3], [IGNORED, 9, 3, IGNORED]])
    batch = Answered(tokens, labels, reward=np.array([1.0, 0.0]), advantage=np.array([0.5, -0.5]))
    one, other = (model(torch.tensor([row])).log_softmax(-1)[0] for row in ([5, 6, 7, 8], [5, 6, 9]))
    ours = [torch.stack((one[1, 7], one[2, 8], one[3, 3])), torch.stack((other[1, 9], other[2, 3]))]
    with torch.no_grad():
        one, other = (reference(torch.tensor([row])).log_softmax(-1)[0] for row in ([5, 6, 7, 8], [5, 6, 9]))
        theirs = [torch.stack((one[1, 7], one[2, 8], one[3, 3])), torch.stack((other[1, 9], other[2, 3]))]
    expected = -0.5 * ours[0].mean() + 0.5 * ours[1].mean()
    reinforce = Reinforce(Reward())
    found = torch.autograd.grad(reinforce(model, batch), model.embedding.weight)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected, model.embedding.weight, retain_graph=True)[0])
    assert reinforce.told() == {"reward": 1.0}
    apart = [b - a for a, b in zip(ours, theirs, strict=True)]
    expected = expected + sum(0.2 * (gap.exp() - gap - 1).mean() for gap in apart)
    found = torch.autograd.grad(Reinforce(Reward(kl=0.2), reference)(model, batch), model.embedding.weight)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected, model.embedding.weight)[0])


WORDS = Tokenizer.bytes()
ASKED = [Question((Message("user", f"Say {letter}."),), letter, row) for row, letter in enumerate("abcde", 1)]


def an_answering() -> tuple[Run, Rollouts]:
    """A tiny model over bytes, whose answers are worth their share of vowels."""
    arch = qwen3(width=32, depth=1, head_size=16, mlp=48, vocabulary=WORDS.size, context=64)
    goal = Reward(samples=4, tokens=6)
    run = Run(
        arch, Data((), "x", "reward"), Shape(2, 1, 64), AdamW(rate=1e-2), Constant(), Plan(7), machine=Machine(threads=1), goal=goal
    )  # fmt: skip
    model = initialise(Transformer(arch), 3)
    return run, Rollouts(model, WORDS, FORMATS["chatml"], ASKED, lambda q, a, said: sum(c in "aeiou" for c in said), goal, run.machine, 2)


def test_answers_are_the_models_own_and_alike_when_asked_again():
    _, rollouts = an_answering()
    [one], [again], [later] = rollouts.batch_at(3), rollouts.batch_at(3), rollouts.batch_at(4)
    assert isinstance(one, Answered)
    assert np.array_equal(one.tokens, again.tokens)
    assert one.tokens.shape != later.tokens.shape or not np.array_equal(one.tokens, later.tokens)
    assert len(one.tokens) == 8
    assert one.reward is not None
    for row in range(8):
        learned = one.labels[row][one.labels[row] != IGNORED]
        begins = int(np.argmax(one.labels[row] != IGNORED))
        assert WORDS.decode([int(t) for t in one.tokens[row, : begins + 1]], specials=True).endswith("<|im_start|>assistant\n")
        said = WORDS.decode([int(token) for token in learned if token != rollouts.end])
        assert one.reward[row] == sum(c in "aeiou" for c in said)
    with pytest.raises(ValueError, match="torchrun"):
        rollouts.batch_at(0, 0, 2)


def test_learning_from_a_reward_resumes_bit_equal(tmp_path):
    def train(folder, **more):
        run, rollouts = an_answering()
        go(run, tmp_path / folder, rollouts, Reinforce(Reward()), start=lambda: rollouts.model, evaluate=None, **more)

    train("whole")
    with pytest.raises(Stopped):
        train("parts", after_step=[interrupt_at(3)])
    train("parts")
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_rewards_have_names(tmp_path):
    assert same_number("", "x\n#### 1,200", "so 7, no: 1200.00") == 1
    assert same_number("", "#### 5", "five") == 0
    (tmp_path / "mine.py").write_text("def short(question, answer, said):\n    return -len(said)\n")
    worth, _ = worth_named(f"{tmp_path / 'mine.py'}:short")
    assert worth("", "", "abc") == -3
    for name, words in (("answr", "FILE.py:FUNCTION"), (f"{tmp_path / 'mine.py'}:long", "no function long"), ("no.py:f", "does not exist")):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            worth_named(name)
    (tmp_path / "broken.py").write_text("import nothing_of_the_kind\n")
    with pytest.raises(ValueError, match="fails with ModuleNotFoundError"):
        worth_named(f"{tmp_path / 'broken.py'}:short")
