"""The order and the meaning are those of transformers; what is drawn follows the stated distribution."""

import math
import random

import numpy as np
import pytest
import torch
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fledge.generation.sampling import Sampling, choose, draw, shape, uniform


def theirs(sampling: Sampling, scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    chain = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k is not None:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p is not None:
        chain.append(MinPLogitsWarper(sampling.min_p))
    return chain(tokens, scores.clone())  # pyrefly: ignore[bad-argument-type]


def any_sampling(rng: random.Random) -> Sampling:
    return Sampling(
        temperature=rng.choice([0.3, 0.7, 1.0, 1.5]),
        top_k=rng.choice([None, 1, 3, 20, 1000]),
        top_p=rng.choice([None, 0.05, 0.5, 0.9, 1.0]),
        min_p=rng.choice([None, 0.0, 0.02, 0.3, 1.0]),
        repetition_penalty=rng.choice([1.0, 1.3, 0.8]),
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


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("counted", ["tokens", "seeds"])
def test_drawn_tokens_follow_the_distribution(seed, counted):
    """Chi-square over 4,000 draws, once along the tokens of one seed, once over the first token of many seeds."""
    rng = random.Random(seed)
    scores = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed))
    sampling = Sampling(rng.choice([0.7, 1.0, 2.0]), rng.choice([None, 5]), rng.choice([None, 0.8]), rng.choice([None, 0.1]))
    count = 4000
    numbers = [uniform(seed, i) if counted == "tokens" else uniform(count * seed + i, 0) for i in range(count)]
    chosen = choose(scores.expand(count, -1), sampling, uniforms=torch.tensor(numbers, dtype=torch.float64))
    expected = count * shape(scores, sampling)[0].softmax(-1).double()
    found = torch.bincount(chosen, minlength=12).double()
    possible = expected > 0
    assert found[~possible].sum() == 0
    statistic = ((found - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = max(int(possible.sum()) - 1, 1)
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


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
        ({"repetition_penalty": 0}, "1 changes nothing"),
        ({"seed": -1}, "from 0"),
    ],
)
def test_wrong_settings_are_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**setting)
