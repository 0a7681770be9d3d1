"""The order and the meaning are those of transformers; what is drawn follows the stated distribution."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from fledge.generation.sampling import NOTHING, Sampling, choose, draw, probabilities, settle, shape, uniform


def theirs(sampling: Sampling, scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    chain = LogitsProcessorList()
    if sampling.logit_bias:
        chain.append(SequenceBiasLogitsProcessor([[[token], bias] for token, bias in dict(sampling.logit_bias).items()]))
    if sampling.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.banned:
        chain.append(SuppressTokensLogitsProcessor(sorted(sampling.banned)))
    chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k is not None:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p is not None:
        chain.append(MinPLogitsWarper(sampling.min_p))
    if sampling.typical_p is not None and sampling.typical_p < 1:
        chain.append(TypicalLogitsWarper(sampling.typical_p))
    return chain(tokens, scores.clone())  # pyrefly: ignore[bad-argument-type]


def any_sampling(rng: random.Random) -> Sampling:
    return Sampling(
        temperature=rng.choice([0.3, 0.7, 1.0, 1.5]),
        top_k=rng.choice([None, 1, 3, 20, 1000]),
        top_p=rng.choice([None, 0.05, 0.5, 0.9, 1.0]),
        min_p=rng.choice([None, 0.0, 0.02, 0.3, 1.0]),
        typical_p=rng.choice([None, None, 0.2, 0.8, 1.0]),
        repetition_penalty=rng.choice([1.0, 1.3, 0.8]),
        logit_bias=rng.choice([{}, {3: 2.5, 50: -4.0}]),
        banned=rng.choice([(), (1, 7, 30)]),
    )


@pytest.mark.parametrize("seed", range(150))
def test_distribution_is_that_of_transformers(seed):
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    sampling = any_sampling(rng)
    scores = torch.randn(4, 60, generator=generator) * rng.choice([1, 5])
    tokens = torch.randint(60, (4, 9), generator=generator)
    seen = torch.zeros(4, 60, dtype=torch.bool).scatter(1, tokens, True)
    ours = shape(scores, sampling, seen)
    reference = theirs(sampling, scores, tokens)
    assert torch.equal(ours == -math.inf, reference == -math.inf)
    torch.testing.assert_close(ours.softmax(-1), reference.softmax(-1))


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-3])
def test_low_temperatures_take_the_best(temperature):
    scores = torch.randn(8, 50, generator=torch.Generator().manual_seed(0)) * 30
    chosen = choose(scores, Sampling(temperature), uniforms=torch.rand(8, dtype=torch.float64))
    assert torch.equal(chosen, scores.argmax(-1))


def plainly(scores: torch.Tensor, sampling: Sampling, prompt: list[int], made: list[int]) -> list[float]:
    """The stated distribution, in Python's own numbers, token by token as the papers have it."""
    logits = [float(score) for score in scores]
    for token, bias in dict(sampling.logit_bias).items():
        logits[token] += bias
    for token in {*prompt, *made}:
        logits[token] *= sampling.repetition_penalty if logits[token] < 0 else 1 / sampling.repetition_penalty
    for token in set(made):
        logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * made.count(token)
    odds = {token: logit / sampling.temperature for token, logit in enumerate(logits) if token not in sampling.banned}

    def chances() -> dict[int, float]:
        best = max(odds.values())
        total = sum(math.exp(value - best) for value in odds.values())
        return {token: math.exp(value - best) / total for token, value in odds.items()}

    def reaching(order: list[int], p: float) -> list[int]:
        """The first of these whose probabilities reach p together."""
        known, total = chances(), 0.0
        for place, token in enumerate(order):
            total += known[token]
            if total >= p:
                return order[: place + 1]
        return order

    if sampling.top_k is not None:
        odds = {token: odds[token] for token in sorted(odds, key=lambda token: -odds[token])[: sampling.top_k]}
    if sampling.top_p is not None:
        odds = {token: odds[token] for token in reaching(sorted(odds, key=lambda token: -odds[token]), sampling.top_p)}
    if sampling.min_p is not None:
        known = chances()
        odds = {token: odds[token] for token in odds if known[token] >= sampling.min_p * max(known.values())}
    if sampling.typical_p is not None:
        known = chances()
        entropy = -sum(chance * math.log(chance) for chance in known.values() if chance)
        far = {token: abs(-math.log(chance) - entropy) if chance else math.inf for token, chance in known.items()}
        odds = {token: odds[token] for token in reaching(sorted(far, key=lambda token: far[token]), sampling.typical_p)}
    known = chances()
    return [known.get(token, 0.0) for token in range(len(logits))]


def any_stated(rng: random.Random, size: int) -> tuple[Sampling, list[int], list[int]]:
    """Settings of every kind, and what was read and generated before."""
    sampling = Sampling(
        temperature=rng.choice([0.5, 0.7, 1.0, 1.7]),
        top_k=rng.choice([None, None, 2, 5]),
        top_p=rng.choice([None, None, 0.4, 0.83]),
        min_p=rng.choice([None, None, 0.05, 0.3]),
        typical_p=rng.choice([None, None, 0.3, 0.77]),
        repetition_penalty=rng.choice([1.0, 1.3, 0.8]),
        presence_penalty=rng.choice([0.0, 0.6, -0.4]),
        frequency_penalty=rng.choice([0.0, 0.3]),
        logit_bias=rng.choice([{}, {rng.randrange(size): 1.5, rng.randrange(size): -2.0}]),
        banned=rng.sample(range(size), rng.choice([0, 3])),
    )
    return sampling, rng.choices(range(size), k=6), rng.choices(range(size), k=rng.randrange(6))


@pytest.mark.parametrize("seed", range(15))
def test_what_is_drawn_follows_the_stated_distribution(seed):
    wrong = off(seed)
    assert not wrong, wrong


def off(seed: int, count: int = 4000) -> str:
    """What is wrong by chi-square with so many draws: the tokens of one seed, the first ones of many, and with a draft that guesses."""
    rng, size = random.Random(seed), 12
    sampling, prompt, made = any_stated(rng, size)
    scores, other = torch.randn(2, 1, size, generator=torch.Generator().manual_seed(seed)) * rng.choice([1.0, 2.5])
    stated = torch.tensor(plainly(scores[0], sampling, prompt, made), dtype=torch.float64)
    seen = torch.zeros(1, size, dtype=torch.bool).index_fill(1, torch.tensor([*prompt, *made]), True)
    times = torch.bincount(torch.tensor(made, dtype=torch.long), minlength=size)[None]

    def numbers(purpose: int) -> torch.Tensor:
        return torch.tensor([uniform(count * seed + i, purpose << 48) for i in range(count)], dtype=torch.float64)

    along = torch.tensor([uniform(seed, i) for i in range(count)], dtype=torch.float64)
    chances, guessed = (probabilities(one, sampling, seen, times).expand(count, -1) for one in (scores, other))
    guesses = draw(guessed, numbers(1))
    drawn = {
        "tokens of one seed": choose(scores.expand(count, -1), sampling, seen, times, along),
        "first tokens of many seeds": choose(scores.expand(count, -1), sampling, seen, times, numbers(0)),
        "tokens with a draft": settle(chances, guesses, guessed, numbers(2), numbers(0)),
    }
    wrong = [name for name, chosen in drawn.items() if not follows(torch.bincount(chosen, minlength=size), stated)]
    return f"seed {seed}, {sampling}: {', '.join(wrong)}" if wrong else ""


def follows(found: torch.Tensor, stated: torch.Tensor) -> bool:
    """Whether chance brings counts as far from what is stated, by chi-square, more often than once in a million; none is where none can be.

    What is expected fewer than five times counts as one.
    """
    expected = stated * found.sum()
    if int(found[expected == 0].sum()):
        return False
    often, rare = expected >= 5, (expected > 0) & (expected < 5)
    counts, due = (torch.cat([part[often], part[rare].sum()[None]]) for part in (found.double(), expected.double()))
    counts, due = counts[due > 0], due[due > 0]
    statistic, freedom = ((counts - due) ** 2 / due).sum(), torch.tensor(len(due) - 1.0, dtype=torch.float64)
    return len(due) == 1 or float(torch.special.gammaincc(freedom / 2, statistic / 2)) > 1e-6


def test_a_wrong_distribution_is_noticed():
    """The judge above, given what it has to refuse."""
    stated = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    assert follows(torch.tensor([2010, 1180, 810, 0]), stated)
    assert not follows(torch.tensor([2200, 1100, 700, 0]), stated)
    assert not follows(torch.tensor([2010, 1180, 809, 1]), stated)


def test_uniform_numbers_depend_on_seed_and_index_alone():
    assert uniform(7, 3) == uniform(7, 3)
    numbers = [uniform(seed, index) for seed in range(40) for index in range(40)]
    assert len(set(numbers)) == 1600
    assert all(0 <= number < 1 for number in numbers)
    grid = np.array(numbers).reshape(40, 40)
    for pairs in ((grid[:, :-1], grid[:, 1:]), (grid[:-1], grid[1:])):
        assert abs(np.corrcoef(pairs[0].ravel(), pairs[1].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("seed", range(20))
def test_impossible_tokens_are_never_drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(50, 30, generator=generator) * (torch.rand(50, 30, generator=generator) < 0.3)
    probabilities[:, 0] += 1e-9
    for edge in (0.0, 1 - 2.0**-52):
        chosen = draw(probabilities, torch.full((50,), edge, dtype=torch.float64))
        assert (probabilities.gather(1, chosen[:, None]) > 0).all()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"temperature": -1}, "use 0 for the best token"),
        ({"temperature": math.nan}, "use 0 for the best token"),
        ({"top_k": 0}, "at least 1"),
        ({"top_p": 0.0}, r"\(0, 1\]"),
        ({"top_p": 1.5}, r"\(0, 1\]"),
        ({"min_p": -0.1}, r"\[0, 1\]"),
        ({"typical_p": 0}, r"\(0, 1\]"),
        ({"repetition_penalty": 0}, "1 changes nothing"),
        ({"presence_penalty": 3}, r"\[-2, 2\]"),
        ({"frequency_penalty": math.nan}, r"\[-2, 2\]"),
        ({"logit_bias": {3: math.inf}}, "banned rules a token out"),
        ({"seed": -1}, "from 0"),
    ],
)
def test_wrong_settings_are_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**setting)


def test_settings_are_data():
    one = Sampling(logit_bias={5: 1.0, 3: -2.0}, banned=[7, 8, 7])
    assert one == Sampling(logit_bias={3: -2.0, 5: 1.0}, banned={8, 7}) == replace(one)
    assert hash(one) == hash(replace(one))
    assert dict(one.logit_bias) == {3: -2.0, 5: 1.0}
    assert one.named == {3, 5, 7, 8}


@pytest.mark.parametrize("sampling", [Sampling(0), Sampling(0.7, top_k=3, top_p=0.5, min_p=0.1, typical_p=0.5)])
def test_where_nothing_is_allowed_nothing_is_chosen(sampling):
    scores = torch.full((2, 9), -math.inf)
    scores[1, 4] = 1.0
    assert choose(scores, sampling, uniforms=torch.tensor([0.5, 0.5], dtype=torch.float64)).tolist() == [NOTHING, 4]
