"""Spikes of the loss: told from noise, and what is done about them."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.train.guard import Spikes
from fledge.train.run import Guard

GUARD = Guard()


def first_spike(losses, guard: Guard = GUARD) -> int | None:
    spikes = Spikes(guard)
    return next((i for i, loss in enumerate(losses) if spikes.sees(loss)), None)


def learning(seed: int, noise: float, leap: float, at: int = 200, steps: int = 300) -> list[float]:
    """A loss that falls from 5 to 2, with noise, and is `leap` times as high from step `at` on."""
    dice = random.Random(f"{seed} {noise} {leap}")
    falling = [2 + 3 * math.exp(-i / 60) for i in range(steps)]
    return [loss * math.exp(dice.gauss(0, noise)) * (leap if i >= at else 1) for i, loss in enumerate(falling)]


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05, 0.3])
def test_noise_is_no_spike_and_a_doubling_is_one(noise):
    for seed in range(8):
        assert first_spike(learning(seed, noise, 1.0)) is None
        if noise < 0.1:
            assert first_spike(learning(seed, noise, 2.0)) == 202  # the third in a row


@given(st.lists(st.floats(0.5, 20), min_size=1, max_size=30), st.floats(1e-3, 1e3), st.integers(0, 30))
def test_it_knows_no_scale_and_a_stop_changes_nothing(losses, scale, stop):
    guard = Guard(window=4, sigmas=2.0, hits=2)
    whole, scaled, first = Spikes(guard), Spikes(guard), Spikes(guard)
    seen = [whole.sees(loss) for loss in losses]
    if all(abs(loss / whole.limit - 1) > 1e-9 for loss in losses):
        assert seen[-1] == [scaled.sees(loss * scale) for loss in losses][-1]
    before = [first.sees(loss) for loss in losses[:stop]]
    resumed = Spikes(guard, first.losses)
    assert before + [resumed.sees(loss) for loss in losses[stop:]] == seen


def test_hard_batches_apart_from_each_other_are_no_spike():
    losses = learning(0, 0.02, 1.0)
    for i in range(100, 300, 3):
        losses[i] *= 5
        losses[i + 1 if i < 299 else i] *= 5
    assert first_spike(losses) is None
    assert first_spike(losses, Guard(hits=2)) == 101
