"""`evaluate --tasks`: published tasks through lm-evaluation-harness."""

import importlib.util
import json

import pytest

from fledge.verbs import load
from fledge.verbs.scoring.tasks import kept_at

ROWS = [{"activity_label": "Code", "ctx": f"def f{n}(self):", "endings": ["return", "zq", "~", "b"], "label": str(n % 4)} for n in range(6)]


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs fledge[harness]")
@pytest.mark.filterwarnings("default")  # its libraries' own
def test_hellaswag_from_a_file(base, assistant, tmp_path, monkeypatch, command):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    words = ("evaluate", base, assistant, "--tasks", f"hellaswag={tmp_path / 'rows.jsonl'}", "--shots", "0,1", "--json")
    said = command(*words)
    assert said.code == 0, said.err
    found = said.json
    measures = {(score["model"], score["measure"], score["shots"]) for score in found["scores"]}
    kinds = ("hellaswag acc", "hellaswag acc_norm")
    assert measures == {(str(model), kind, shots) for model in (base, assistant) for kind in kinds for shots in (0, 1)}
    for score in found["scores"]:
        own = [
            row["scores"][score["measure"]] for row in found["items"] if (row["model"], row["shots"]) == (score["model"], score["shots"])
        ]
        assert score["value"] == pytest.approx(sum(own) / len(ROWS))
    assert len(found["differences"]) == 4
    kept = kept_at(str(base), load(base))
    assert len(kept.read_text().splitlines()) == 6 * 4 * 2
    again = command(*words)
    assert again.json["scores"] == found["scores"]
    assert len(kept.read_text().splitlines()) == 6 * 4 * 2
    command(*words, "--fresh")
    assert len(kept.read_text().splitlines()) == 6 * 4 * 2


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="fledge[harness] is installed here")
def test_without_the_harness_it_says_what_to_type(base, command):
    said = command("evaluate", base, "--tasks", "hellaswag")
    assert said.code == 2
    assert "pip install 'fledge[harness]'" in said.err


def test_what_does_not_go_together(base, classifier, messages, command):
    for words, sentence in (
        ((base, "--tasks", "hellaswag", "--on", messages), "two evaluations"),
        ((classifier, "--tasks", "hellaswag"), "does not go on from text"),
        ((classifier, "--on", messages, "--judge", base), "does not go on from text"),
        ((classifier, "--on", messages, "--score", "exact"), "are for a test"),
        ((base, "--tasks", "hellaswag", "--regex", "x"), "are for a test"),
        ((base, "--on", messages, "--judge", base, "--judging", "pairs"), "needs two models or more"),
    ):
        said = command("evaluate", *words)
        assert said.code == 2
        assert sentence in said.err
