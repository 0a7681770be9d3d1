"""A changed folder is refused by name, and nothing outside of it is opened; the campaign behind it is benchmarks/strictness.py."""

import sys
from pathlib import Path

import pytest

from tests.weights.mutations import KINDS, OUTSIDE, Audit, Bases, opened_within, try_one

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files a library opens")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def audit() -> Audit:
    return Audit()


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 4), marks=pytest.mark.slow)], ids=["few", "more"])
@pytest.mark.parametrize("kind", [*KINDS, "untouched"])
def test_a_changed_folder_is_refused_by_name(kind: str, seeds: range, bases: Bases, audit: Audit, tmp_path: Path):
    wrong = [complaint for seed in seeds if (complaint := try_one(bases, tmp_path / "room", audit, kind, seed))]
    assert not wrong


def test_the_watch_sees_what_is_opened(bases: Bases, audit: Audit, tmp_path: Path):
    """Else the test above could not fail."""
    from safetensors import safe_open

    outside = tmp_path / OUTSIDE
    outside.mkdir()
    file = outside / "outside.safetensors"
    file.write_bytes((bases.made("gpt2", False) / "model.safetensors").read_bytes())
    with opened_within(outside) as touched, safe_open(file, "pt"):
        pass
    assert touched
    with audit.heard() as paths:
        (outside / "other.txt").write_text("")
    assert str(outside / "other.txt") in paths
