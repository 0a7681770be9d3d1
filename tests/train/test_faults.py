"""A share of each campaign; all of them: `make campaign NAME=damage` (not_finite, saves, full_disk, resume)."""

import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.faults import Trial
from tests.train.trials import OBJECTIVES, TRIALS, Resume, different, train_world

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forked processes and limits of files as Linux has them")


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory):
    return cache(lambda name: TRIALS[name](tmp_path_factory.mktemp(name)))


# how many trials by default, and how many more are slow: about 1 and 10 % of each campaign, or one of each kind
SHARES = {"damage": (7, 50), "not_finite": (5, 20), "saves": (10, 100), "full_disk": (2, 6), "resume": (3, 6)}


def some(kinds: tuple[str, ...], first: int, count: int) -> list[tuple[str, int]]:
    """So many kinds with seeds, spread evenly over all of them."""
    stride = max(1, len(kinds) // count)
    return [(kinds[i * stride % len(kinds)], i * stride // len(kinds)) for i in range(first, first + count)]


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "more"])
@pytest.mark.parametrize("name", TRIALS)
def test_it_survives(name: str, slow: bool, trial):
    attempt: Trial = trial(name)
    few, more = SHARES[name]
    chosen = some((*attempt.KINDS, "untouched"), few if slow else 0, more if slow else few)
    print(chosen)
    assert not [wrong for kind, seed in chosen if (wrong := attempt(kind, seed))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("objective", [*OBJECTIVES, "denoise"])
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])  # two of several workers only wait for each other
def test_deterministic_runs_end_in_the_same_bits(threads: int, objective: str, dtype: str, tmp_path: Path):
    def strict(step: int) -> None:
        seen.append((step, torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()))

    seen = []
    for name in ("one", "other"):
        train_world(strict, objective, dtype, tmp_path / name, threads)
    assert seen == 2 * [(step, True, threads) for step in range(1, Resume.STEPS + 1)]
    assert different(tmp_path / "one", tmp_path / "other", Resume.STEPS) == 0
    assert not torch.are_deterministic_algorithms_enabled()
