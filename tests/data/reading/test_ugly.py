"""A share of the campaign of ugly files; all of them: `make campaign NAME=ugly`."""

import sys
from pathlib import Path

import pytest

from tests.data.reading.ugly import Ugly

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="links, pipes and names as Linux has them")


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 12), marks=pytest.mark.slow)], ids=["few", "more"])
def test_every_item_of_an_ugly_file_is_accounted_for(seeds: range, tmp_path: Path):
    attempt = Ugly(tmp_path)
    assert not [wrong for kind in (*Ugly.KINDS, "untouched") for seed in seeds if (wrong := attempt(kind, seed))]
