"""`finetune distill` and `finetune reward`."""

import json

import pytest

import fledge

SMALL = ["batch.rows=2", "batch.context=128"]


def perplexity(folder) -> float:
    """Of held-out answers, as its own fine-tuning measured it."""
    return json.loads((folder / "fledge.json").read_text())["scores"]["perplexity of held-out answers"]["after"]


def test_a_small_model_learns_from_a_larger_one(assistant, base, questions, tmp_path, command):
    words = ["finetune", "distill", questions, "--out", tmp_path / "small", "--teacher", assistant, "--epochs", 2, "--json"]
    said = command(*words, "--arch", "fledge-1m", "--set", "arch.width=16", "--set", "arch.depth=1", *(f"--set={value}" for value in SMALL))
    assert said.code == 0, said.err
    assert said.json["after"] < said.json["before"]
    assert said.json["teacher"] == pytest.approx(perplexity(assistant), rel=0.05)
    lines = [json.loads(line) for line in (tmp_path / "small" / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [line["validation"] for line in lines if "validation" in line]
    assert told[-1]["divergence"] < told[0]["divergence"] or len(told) == 1
    facts = json.loads((tmp_path / "small" / "fledge.json").read_text())
    assert facts["teacher"]["name"] == str(assistant)
    assert facts["parent"] is None
    assert fledge.load(tmp_path / "small").chat_format is not None
    assert "divergence" in (tmp_path / "small" / "run" / "report.html").read_text().lower()


def test_a_teacher_has_the_same_words(assistant, denoiser, questions, tmp_path, command):
    both = command("finetune", "distill", questions, "--out", tmp_path / "x", "--teacher", assistant)
    assert both.code == 2
    assert "--from MODEL, or --arch PRESET" in both.err
    other = command("finetune", "distill", questions, "--out", tmp_path / "x", "--teacher", denoiser, "--from", assistant)
    assert other.code == 2


@pytest.mark.parametrize("lora", [None, 4])
def test_what_is_rewarded_grows(assistant, questions, tmp_path, command, lora):
    (tmp_path / "mine.py").write_text("def marks(question, answer, said):\n    return sum(c in 'aeiou ' for c in said) / 6\n")
    words = ["finetune", "reward", questions, "--out", tmp_path / "r", "--from", assistant, "--reward", f"{tmp_path / 'mine.py'}:marks"]
    words += ["--samples", 4, "--max-tokens", 6, "--epochs", 2, *(["--lora", lora] if lora else []), "--set", "optimizer.rate=5e-3"]
    said = command(*words, "--set", "batch.rows=3", "--json")
    assert said.code == 0, said.err
    assert said.json["after"]["value"] >= said.json["before"]["value"]
    lines = [json.loads(line) for line in (tmp_path / "r" / "run" / "metrics.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert sum(rewards[-4:]) > sum(rewards[:4])
    assert (tmp_path / "r" / ("adapter_config.json" if lora else "config.json")).is_file()
    assert (tmp_path / "r" / "run" / "report.html").is_file()
    strange = command(*words[:-4], "--reward", "answr")
    assert strange.code == 2
