"""Speculative decoding is plain decoding: greedy the same tokens, drawn the same distribution, with fewer passes."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from fledge.generation import Completion, Contract, DraftModel, Engine, Lookup, Request, Sampling, speculate
from fledge.generation.engine import Row
from fledge.generation.sampling import probabilities
from fledge.generation.speculative import Draft, Guess, certain
from tests.generation.test_beam import BOTH
from tests.generation.test_engine import CONTEXT, SHAPES, TOKENIZER, any_requests, assert_same, perturbed
from tests.generation.test_sampling import follows


def drafts(engine: Engine, seed: int = 1) -> list[Draft]:
    return [Lookup(), DraftModel(perturbed(engine.model.arch, seed), engine), DraftModel(engine.model, engine)]


def spoken(engine: Engine, request: Request, draft: Draft, ahead: int = 4) -> Completion:
    """The completion, whose text is what was streamed."""
    found = []

    def kept():
        found.append((yield from speculate(engine, request, draft, ahead)))

    text = "".join(kept())
    assert found[0].text == text
    return found[0]


@pytest.mark.parametrize("shape", [*SHAPES, *BOTH])
def test_greedy_tokens_are_those_of_plain_decoding(shape):
    engine = Engine(perturbed({**SHAPES, **BOTH}[shape]), TOKENIZER)
    guessing, rng = drafts(engine), random.Random(0)
    for request in any_requests(rng, 3):
        penalties = {"repetition_penalty": rng.choice([1.0, 1.3]), "frequency_penalty": rng.choice([0.0, 0.5])}
        request = replace(request, sampling=Sampling(0, **penalties), top_logprobs=2, max_tokens=rng.choice([2, 9]))
        [expected] = engine.run([request])
        for draft in guessing:
            found = spoken(engine, request, draft, rng.choice([1, 3, 8]))
            assert_same(found, expected)
            assert [dict(one).keys() for one in found.alternatives] == [dict(one).keys() for one in expected.alternatives]


class Stubborn:
    """A draft that always guesses the same."""

    def __init__(self, tokens: list[int]):
        self.tokens = tokens

    def guess(self, row: Row, count: int) -> list[Guess]:
        return [certain(token, row) for token in self.tokens[:count]]


@pytest.mark.slow
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(1.5, top_k=4, presence_penalty=0.5, repetition_penalty=1.2)])
def test_drawn_tokens_have_the_models_distribution(which, sampling):
    assert_drawn_as_stated(which, sampling, 120)


def test_a_few_drawn_tokens_have_the_models_distribution():
    assert_drawn_as_stated(2, Sampling(1.5, frequency_penalty=0.5, repetition_penalty=1.2), 40)


def assert_drawn_as_stated(which: int, sampling: Sampling, count: int) -> None:
    """Chi-square of the first tokens together, among a few that may be drawn, against their exact probabilities."""
    letters = TOKENIZER.encode("abc")
    sampling = replace(sampling, banned=frozenset(range(400)) - set(letters))
    engine = Engine(perturbed(SHAPES["qwen3"]), TOKENIZER)
    draft = [Lookup(), DraftModel(perturbed(SHAPES["qwen3"], 1), engine), Stubborn(letters)][which]
    prompt = TOKENIZER.encode("abcabdab")
    made = Counter(tuple(spoken(engine, Request(prompt, 2, replace(sampling, seed=seed), ()), draft, 2).tokens) for seed in range(count))
    stated = exact(engine, prompt, sampling, letters, 2)
    assert made.keys() <= stated.keys()
    assert follows(torch.tensor([made[text] for text in stated]), torch.tensor(list(stated.values()), dtype=torch.float64))


def exact(engine: Engine, prompt: list[int], sampling: Sampling, letters: list[int], length: int) -> dict[tuple[int, ...], float]:
    """The probability of each text of so many letters, by whole forwards."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        texts = list(found)
        with torch.no_grad():
            scores = engine.model.eval()(torch.tensor([[*prompt, *text] for text in texts]))[:, -1]
        seen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, torch.tensor([[*prompt, *text] for text in texts]), True)
        made = torch.zeros_like(scores, dtype=torch.long)
        for row, text in zip(made, texts, strict=True):
            for token in text:
                row[token] += 1
        chances = probabilities(scores, sampling, seen, made)[:, letters].double()
        found = {
            (*text, letter): found[text] * float(chance)
            for text, row in zip(texts, chances, strict=True)
            for letter, chance in zip(letters, row, strict=True)
        }
    return found


def test_a_contract_is_kept():
    engine = Engine(perturbed(SHAPES["qwen3"]), TOKENIZER)
    request = Request(TOKENIZER.encode("yes no yes"), 20, Sampling(0), contract=Contract.choice(["yes, no", "yes or no"]))
    [expected] = engine.run([request])
    for draft in drafts(engine):
        assert_same(spoken(engine, request, draft), expected)
    assert expected.text in ("yes, no", "yes or no")


def test_good_guesses_save_passes():
    engine = Engine(perturbed(SHAPES["qwen3"]), TOKENIZER)
    request = Request(TOKENIZER.encode("The sky"), 21, Sampling(0), ())
    passes = []
    engine.model.trunk.register_forward_hook(lambda *_: passes.append(1))
    draft = DraftModel(perturbed(SHAPES["qwen3"]), engine)  # the same weights in another object
    assert len(spoken(engine, request, draft, 4).tokens) == 21
    assert len(passes) == 5  # 4 guesses and one more each time, of the last pass one alone


def test_a_draft_ends_where_its_context_does():
    engine = Engine(perturbed(SHAPES["gpt2"]), TOKENIZER)
    short = DraftModel(perturbed(replace(SHAPES["gpt2"], context=12)), engine)
    request = Request(TOKENIZER.encode("The sky"), None, Sampling(0), ())
    [expected] = engine.run([request])
    assert_same(spoken(engine, request, short), expected)
    assert len(expected.tokens) == CONTEXT - 7 + 1


def test_wrong_drafts_are_refused():
    engine = Engine(perturbed(SHAPES["qwen3"]), TOKENIZER)
    with pytest.raises(ValueError, match="of another family"):
        DraftModel(perturbed(BOTH["2017"]), engine)
    with pytest.raises(ValueError, match="at least 1"):
        speculate(engine, Request([7]), Lookup(), 0)
