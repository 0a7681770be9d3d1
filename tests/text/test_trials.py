"""A share of the comparison of ids; all of it: `make campaign NAME=tokenizer_ids`."""

import pytest

from tests.text.trials import MADE, Ids

COUNTS = {"default": range(1), "slow": range(1, 10)}  # trials of each kind: 1 % and 10 % of the campaign's


@pytest.fixture(scope="module")
def trial(data, tmp_path_factory) -> Ids:
    for package in ("sentencepiece", "tiktoken", "transformers"):
        pytest.importorskip(package)
    return Ids(tmp_path_factory.mktemp("ids"))


@pytest.mark.parametrize("kind", [*MADE, "untouched"])
def test_ids_are_those_of_the_makers_code(kind, trial):
    assert [found for seed in COUNTS["default"] if (found := trial(kind, seed))] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*MADE, "untouched"])
def test_ids_are_those_of_the_makers_code_on_many(kind, trial):
    assert [found for seed in COUNTS["slow"] if (found := trial(kind, seed))] == []


def test_another_vocabulary_is_noticed(trial):
    trial.ours["gpt2"], kept = trial.ours["tiktoken"], trial.ours["gpt2"]
    try:
        assert "gpt2: string 0" in (trial.unequal(["The sky is blue."]) or "")
    finally:
        trial.ours["gpt2"] = kept
