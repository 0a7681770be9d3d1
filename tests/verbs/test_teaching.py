"""`finetune distill` and `finetune reward`."""

import json
import math
import re

import pytest

import fledge
from fledge.verbs.finetune.distilling import DistillJob
from fledge.verbs.scoring.texts import costs_within, forgotten
from tests.verbs.test_finetune import with_template

SMALL = ["batch.rows=2", "batch.context=128"]
BITS = "bits per byte of its parent's held-out text"


def perplexity(folder) -> float:
    """Of held-out answers, as its own fine-tuning measured it."""
    return json.loads((folder / "fledge.json").read_text())["scores"]["perplexity of held-out answers"]["after"]


def test_a_small_model_learns_from_a_larger_one(assistant, base, questions, tmp_path, command):
    words = ["finetune", "distill", questions, "--out", tmp_path / "small", "--teacher", assistant, "--epochs", 2, "--json"]
    said = command(*words, "--arch", "fledge-1m", "--set", "arch.width=16", "--set", "arch.depth=1", *(f"--set={value}" for value in SMALL))
    assert said.code == 0, said.err
    assert said.json["after"]["perplexity"]["value"] < said.json["before"]["perplexity"]["value"]
    assert said.json["teacher"]["value"] == pytest.approx(perplexity(assistant), rel=0.05)
    lines = [json.loads(line) for line in (tmp_path / "small" / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [line["validation"] for line in lines if "validation" in line]
    assert told[-1]["divergence"] < told[0]["divergence"] or len(told) == 1
    facts = json.loads((tmp_path / "small" / "fledge.json").read_text())
    assert facts["teacher"]["name"] == str(assistant)
    assert facts["parent"] is None
    assert fledge.load(tmp_path / "small").chat_format is not None
    assert "divergence" in (tmp_path / "small" / "run" / "report.html").read_text().lower()


@pytest.mark.parametrize("way", ["prefer", "reward", "distill"])
def test_a_template_of_others_is_taught_in_and_kept(base, questions, tmp_path, command, way):
    template = with_template(base, tmp_path / "theirs", "m.content")
    rows = [{"title": f"Repeat {i}.", "chosen": f"{i}!", "rejected": f"No {i}"} for i in range(12)]
    (tmp_path / "liked.json").write_text(json.dumps(rows))
    words = {
        "prefer": [tmp_path / "liked.json", "--prompt-column", "title", "--from", tmp_path / "theirs", "--lora", 4],
        "reward": [questions, "--from", tmp_path / "theirs", "--samples", 2, "--max-tokens", 4, "--validation", 0.5],
        "distill": [questions, "--teacher", tmp_path / "theirs", "--from", base, "--test", 0, "--set", "batch.context=128"],
    }[way]
    said = command("finetune", way, *words, "--out", tmp_path / "taught", "--epochs", 1)
    assert said.code == 0, said.err
    assert (tmp_path / "taught" / "chat_template.jinja").read_text() == template
    facts = json.loads((tmp_path / "taught" / "fledge.json").read_text())
    assert facts["data"]["format"] == "the model's own chat template"
    assert isinstance(fledge.load(tmp_path / "taught").chat([{"role": "user", "content": "Repeat 3."}], max_tokens=4, seed=0), str)
    assert "Held-out questions" in (tmp_path / "taught" / "run" / "report.html").read_text()


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


@pytest.mark.parametrize("way", ["instruct", "prefer", "reward"])
def test_a_template_that_cannot_write_a_held_out_row_names_it_and_the_flag(base, questions, tmp_path, command, way):
    with_template(base, tmp_path / "theirs", "m.content | replace('odd', 'even')")
    odd = [{"prompt": "One?", "answer": "1"}, {"prompt": "odd?", "answer": "2"}]
    (tmp_path / "odd.json").write_text(json.dumps(odd))
    (tmp_path / "liked.json").write_text(json.dumps([{"prompt": row["prompt"], "chosen": "a", "rejected": "b"} for row in odd]))
    words = {
        "instruct": [questions, "--test", tmp_path / "odd.json", "--set", "batch.context=128"],
        "prefer": [tmp_path / "liked.json", "--validation", 0.5],
        "reward": [tmp_path / "odd.json", "--validation", 0.5],
    }[way]
    said = command("finetune", way, *words, "--from", tmp_path / "theirs", "--out", tmp_path / "taught", "--epochs", 1)
    assert said.code == 2
    assert "row 2: the model's own chat template alters what message 1 (user) says: choose another with --format of fledge" in said.err
    assert not (tmp_path / "taught").exists()


@pytest.mark.parametrize(
    ("function", "words"), [("f(said)", "TypeError.*the question, the known answer"), ("f(*texts)", "is 'good', but a finite number")]
)
def test_a_reward_that_is_none_is_a_sentence(assistant, questions, tmp_path, command, function, words):
    (tmp_path / "mine.py").write_text(f"def {function}:\n    return 'good'\n")
    given = ["--from", assistant, "--out", tmp_path / "taught", "--reward", f"{tmp_path / 'mine.py'}:f", "--epochs", 1]
    said = command("finetune", "reward", questions, *given)
    assert said.code == 2
    assert re.search(words, said.err)
    assert not (tmp_path / "taught" / "model.safetensors").exists()


def test_a_reward_is_refused_under_torchrun_before_anything_starts(assistant, questions, tmp_path, command, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = command("finetune", "reward", questions, "--from", assistant, "--out", tmp_path / "taught")
    assert said.code == 2
    assert "fledge finetune reward is done by one process" in said.err
    assert not (tmp_path / "taught").exists()


def test_the_teacher_is_measured_while_there_is_time_to_count(assistant, base, questions, tmp_path, monkeypatch):
    measured = DistillJob.beside
    times = []

    def timed(self, run):
        assert not (tmp_path / "small" / "run" / "metrics.jsonl").exists()
        times.append(run)
        return measured(self, run)

    monkeypatch.setattr(DistillJob, "beside", timed)
    done = fledge.finetune.distill(
        questions, out=tmp_path / "small", teacher=str(assistant), from_=str(base), test=0, epochs=1, set=["batch.context=128"]
    )  # fmt: skip
    assert len(times) == 1
    assert done.teacher.value == pytest.approx(perplexity(assistant), rel=0.2)


def test_what_was_forgotten_is_measured_without_asking(assistant, base, tmp_path):
    scores = json.loads((assistant / "fledge.json").read_text())["scores"][BITS]
    found = forgotten(str(assistant), fledge.load(assistant), "cpu")
    assert found is not None
    assert found.parent == str(base)
    assert {"before": found.before.value, "after": found.after.value} == pytest.approx(scores)
    assert "Bits per byte of" in (assistant / "run" / "report.html").read_text()
    rows = [{"prompt": f"Repeat {i}.", "chosen": f"{i}!", "rejected": f"No {i}"} for i in range(12)]
    (tmp_path / "liked.json").write_text(json.dumps(rows))
    done = fledge.finetune.prefer(tmp_path / "liked.json", out=tmp_path / "better", from_=str(assistant), epochs=1, lora=4)
    assert done.forgotten is not None
    assert done.forgotten.parent == str(assistant)  # on the text of its own parent
    assert done.forgotten.before.value == pytest.approx(found.after.value)
    assert done.forgotten.verdict in str(done)


def test_what_was_forgotten_takes_no_more_time_than_it_may(assistant, base):
    model, texts = fledge.load(base), ["Some words that are read."] * 4000
    [whole], [some], [one] = (costs_within([model], texts, seconds) for seconds in (math.inf, 0.05, 0.0))
    assert len(whole) == 4000
    assert len(one) == 1 <= len(some) < 4000
    assert (some == whole[: len(some)]).all()
