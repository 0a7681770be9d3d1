"""`finetune prefer`: two answers to each question, one of them liked better."""

import json

import pytest

import fledge


@pytest.fixture(scope="module")
def liked(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "liked.json"
    path.write_text(json.dumps([{"prompt": f"Repeat {i}.", "chosen": f"{i}!", "rejected": f"No {i}, never"} for i in range(40)]))
    return path


@pytest.mark.parametrize("lora", [None, 4])
def test_what_is_liked_becomes_more_probable(assistant, liked, tmp_path, lora, command):
    adapter = ["--lora", lora] if lora else []
    words = ["finetune", "prefer", liked, "--out", tmp_path / "p", "--from", assistant, "--epochs", 6, *adapter, "--sft", 0.2]
    said = command(*words, "--set", "optimizer.rate=3e-3", "--json")
    assert said.code == 0, said.err
    assert said.json["accuracy"]["value"] > 0.7
    assert said.json["margin"]["value"] > 0
    lines = [json.loads(line) for line in (tmp_path / "p" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"reward_accuracy", "reward_margin", "chosen_loss"} <= lines[0].keys()
    assert any("reward_accuracy" in line.get("validation", {}) for line in lines)
    facts = json.loads((tmp_path / "p" / "fledge.json").read_text())
    forgotten = "bits per byte of its parent's held-out text"
    assert {"reward accuracy", "reward margin", "loss of chosen answers", forgotten} == facts["scores"].keys()
    assert (tmp_path / "p" / "run" / "report.html").is_file()
    assert (tmp_path / "p" / ("adapter_config.json" if lora else "config.json")).is_file()
    assert fledge.load(tmp_path / "p").chat_format is not None
    again = command(*words, "--set", "optimizer.rate=3e-3")
    assert "This run is finished" in again.err
    other = command(*words, "--set", "optimizer.rate=3e-3", "--beta", 0.3)
    assert other.code == 2
    assert "beta: 0.1 -> 0.3" in other.err
