"""A share of the campaign of planted cases; all of it: `make campaign NAME=planted`."""

import pytest

from tests.data.unique.planted import EXACT, NEAR, by_library, judged, plant, reached


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_what_was_planted_is_found(data, tmp_path, count):
    planted = plant(data, count, seed=count)
    counts = judged(planted, by_library(planted, tmp_path))
    assert set(counts["planted"]) == {*EXACT, *NEAR, "contaminated"}
    assert reached(counts), counts
