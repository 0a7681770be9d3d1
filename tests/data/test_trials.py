"""A share of the campaigns: each hundredth trial here, each tenth with the slow tests."""

import pytest

from tests.data.trials import Kills, Mutations


@pytest.fixture(scope="module")
def kills(tmp_path_factory) -> Kills:
    return Kills(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def mutations(tmp_path_factory) -> Mutations:
    return Mutations(tmp_path_factory.mktemp("mutations"))


@pytest.mark.parametrize("kind", ["2 workers"])
def test_killed_preparing_goes_on_to_the_same_bytes(kills, kind):
    assert kills(kind, 0) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*Kills.KINDS, "untouched"])
def test_killed_preparing_goes_on_to_the_same_bytes_at_length(kills, kind):
    assert [wrong for seed in range(1, 4) if (wrong := kills(kind, seed))] == []


@pytest.mark.parametrize("kind", [*Mutations.KINDS, "untouched"])
def test_changed_shards_are_refused_by_name(mutations, kind):
    assert mutations(kind, 0) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", Mutations.KINDS)
def test_changed_shards_are_refused_by_name_at_length(mutations, kind):
    assert [wrong for seed in range(1, 11) if (wrong := mutations(kind, seed))] == []
