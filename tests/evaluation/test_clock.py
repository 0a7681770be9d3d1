"""Measuring for as long as there is time."""

import math
import time

import pytest

from fledge.evaluation.clock import in_time


@pytest.mark.parametrize(("seconds", "expected"), [(math.inf, range(50, 51)), (-1.0, range(1, 2)), (0.5, range(2, 11))])
def test_it_ends_before_the_time_does(seconds, expected):
    until, parts = time.monotonic() + seconds, 0
    for _ in in_time(range(50), until):
        time.sleep(0.05 if seconds == 0.5 else 0.0)
        parts += 1
    assert parts in expected
