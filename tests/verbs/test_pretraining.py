"""`pretrain` as a user types it: to the end, again, otherwise, stopped by a signal, and on a full disk."""

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers

import fledge
from fledge.data.documents import Document
from fledge.data.preparation import Recipe, prepare
from fledge.presets import PRESETS
from fledge.text import Tokenizer
from fledge.train import checkpoint
from fledge.train.run import Machine
from fledge.verbs import pretraining
from fledge.verbs.pretraining import Guessed, Validation

from .conftest import TINY

ROOT = Path(__file__).parents[2]
TINY_FLAGS = ["--arch", "fledge-1m", "--tokenizer", "bytes", *(word for setting in TINY for word in ("--set", setting))]


def weights(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_folder_is_a_model_with_its_report(base):
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "fledge.json"} <= set(os.listdir(base))
    assert {"run.json", "metrics.jsonl", "samples.jsonl", "report.html", "log.txt"} - set(os.listdir(base / "run")) <= {"samples.jsonl"}
    facts = json.loads((base / "fledge.json").read_text())
    scored = fledge.evaluate(str(base), on=str(base / "run" / "corpus")).scores[0]
    assert scored.value == pytest.approx(facts["scores"]["validation"]["bits_per_byte"], rel=1e-5)


def test_again_says_finished_and_other_settings_are_refused(base, text, command):
    before = weights(base)
    steps = ["pretrain", text, "--out", base, *TINY_FLAGS, "--prompt", "def "]
    again = command(*steps, "--steps", 40, "--threads", 1)
    assert again.code == 0
    assert "This run is finished" in again.err
    other = command(*steps, "--steps", 50, "--seed", 1, "--set", "save.keep=3", "--set", "batch.rows=5")
    assert other.code == 2
    changed = "steps: 40 -> 50", "seed: 0 -> 1", 'set.save.keep: null -> "3"', 'set.batch.rows: "4" -> "5"'
    assert {line.strip() for line in other.err.splitlines()[1:-1]} == set(changed)
    assert weights(base) == before


@pytest.mark.parametrize(("objective", "opened"), [("masked-word", "AutoModelForMaskedLM"), ("denoise", "AutoModelForSeq2SeqLM")])
def test_what_is_hidden_is_learned_and_opens_elsewhere(base, tmp_path, command, monkeypatch, objective, opened):
    """An encoder, or one with a decoder: stopped half-way it ends bit-equal, and `transformers` scores as fledge does.

    On the way it shows how it fills in held-out text.
    """
    monkeypatch.setattr(pretraining, "SAMPLE_EVERY", 0.0)
    flags = ["--objective", objective, "--steps", 12, "--seed", 3, "--json"]
    for setting in ("arch.width=32", "arch.heads=2", "arch.depth=2", "arch.context=64", "batch.rows=4", "batch.context=48", "save.steps=5"):
        flags += ["--set", setting]
    ends = []
    for name in ("whole", "resumed"):
        out = tmp_path / name
        words = ["pretrain", base / "run" / "corpus", "--out", out, *flags]
        done = command(*words)
        assert done.code == 0, done.err
        if name == "resumed":
            shutil.rmtree(out / "run" / "step-12")
            done = command(*words)
            assert "Going on from" in done.err
        ends.append(weights(out))
        assert done.json["validation"]["accuracy"] > 0
    assert ends[0] == ends[1]
    told = json.loads((tmp_path / "whole" / "run" / "run.json").read_text())
    assert told["data"]["objective"] == objective
    samples = [json.loads(line) for line in (tmp_path / "whole" / "run" / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in samples] == list(range(1, 13))
    around = [re.sub("⟦.*?⟧", "", row[name], flags=re.DOTALL) for row in samples for name in ("whole", "text")]
    assert len(set(around)) == 1
    assert "its gaps filled in" in (tmp_path / "whole" / "run" / "report.html").read_text()
    refused = command("pretrain", base / "run" / "corpus", "--out", tmp_path / "gapless", *flags, "--prompt", "no gap")
    assert "marks nothing" in refused.err
    model = fledge.load(tmp_path / "whole")
    theirs = getattr(transformers, opened).from_pretrained(tmp_path / "whole").eval()
    text = "def parse(self):"
    tokens = [model.tokenizer.framed(model.tokenizer.encode(text))]
    assert transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "whole")(text).input_ids == tokens[0]
    target = [[0, 120, 121]]
    more = {} if objective == "masked-word" else {"decoder_input_ids": torch.tensor(target)}
    ours = model.logits(tokens) if objective == "masked-word" else model.logits(tokens, target)
    torch.testing.assert_close(theirs(torch.tensor(tokens), **more).logits, ours, rtol=1e-4, atol=1e-5)
    for other in {"next-word", "masked-word", "denoise"} - {objective}:
        refused = command("pretrain", base / "run" / "corpus", "--out", tmp_path / "x", "--from", tmp_path / "whole", "--objective", other)
        assert refused.code == 2
        assert "does not fit" in refused.err
    went_on = fledge.pretrain([str(base / "run" / "corpus")], out=tmp_path / "on", from_=tmp_path / "whole", steps=2, set=["batch.rows=4"])
    assert isinstance(went_on.validation, Guessed)


@pytest.mark.parametrize("objective", ["masked-word", "denoise"])
def test_the_time_is_enough_for_every_family(base, tmp_path, objective):
    done = fledge.pretrain([str(base / "run" / "corpus")], out=tmp_path / "m", objective=objective, time="9s")
    assert done.steps > 10
    assert isinstance(done.validation, Guessed)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not tell when a process began")
def test_time_counts_from_the_start_of_the_process():
    code = "import time; time.sleep(1); from fledge.verbs.session import process_began; print(time.monotonic() - process_began())"
    before = time.monotonic()
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 1 <= float(said.stdout) <= time.monotonic() - before + 0.02


@pytest.mark.parametrize("held_out", [2_000, 4_000_000])
def test_the_time_in_the_end_is_kept_as_scoring_needs_it(held_out, tmp_path):
    documents = [
        Document("A sparrow sat on the mill wheel. " * 500, "train"),
        Document("Geese flew over it. " * (held_out // 20), "held out"),
    ]
    corpus = prepare(documents, tmp_path / "corpus", Recipe(Tokenizer.bytes(), lambda document: document.source == "held out"))
    arch = PRESETS["fledge-1m"].arch(vocabulary=corpus.tokenizer.size, width=32, depth=1, context=64)
    run = pretraining.planned(corpus, pretraining.Budget(100.0), arch, {}, Machine(threads=1), time.monotonic())
    share = (run.plan.reserve - pretraining.tidying(100.0)) / 100.0
    assert 0 < share <= pretraining.SCORED
    assert (share > pretraining.SCORED / 2) == (held_out > 10_000)


def test_what_the_time_does_not_allow_is_scored_in_part(tmp_path, command):
    """Held-out text that would take longer to score than the whole command may take: it ends in time, and says so."""
    for name, sentence in (("birds", "Geese fly over the mill at {}. "), ("plays", "Enter {} kings and a fool. ")):
        for number in range(8):
            (tmp_path / f"{name}-{number}.txt").write_text("".join(sentence.format(number * i) for i in range(8_000)), encoding="utf-8")
    texts = [f"{name}={tmp_path}/{name}-*.txt" for name in ("birds", "plays")]
    words = [*TINY_FLAGS, "--validation", 0.5, "--json"]
    began = time.monotonic()
    said = command("pretrain", *texts, "--out", tmp_path / "m", "--time", "20s", *words)
    took = time.monotonic() - began
    assert said.code == 0, said.err
    found = said.json["validation"]
    assert 0 < found["share"] < 1
    assert {group["share"] < 1 for group in found["groups"].values()} == {True}
    assert found["interval"][0] <= found["bits_per_byte"] <= found["interval"][1]
    assert said.json["expected"]["bits_per_byte"] == json.loads((tmp_path / "m" / "run" / "run.json").read_text())["plan"]["expected"] > 0
    assert 0.9 < took / 20 < 1.1


def test_muon_tokens_and_a_parent(base, text, tmp_path, command):
    settings = ["arch.width=32", "arch.heads=2", "arch.depth=1", "arch.context=64", "batch.rows=4", "optimizer.kind=Muon"]
    flags = ["--arch", "gpt2", "--tokens", 2560, *(word for setting in settings for word in ("--set", setting))]
    muon = command("pretrain", base / "run" / "corpus", "--out", tmp_path / "m", *flags, "--json")
    assert muon.code == 0
    assert (muon.json["steps"], muon.json["tokens"]) == (10, 2560)
    assert "random weights" in muon.err
    assert json.loads((tmp_path / "m" / "run" / "run.json").read_text())["optimizer"]["kind"] == "Muon"
    went_on = fledge.pretrain([str(base / "run" / "corpus")], out=tmp_path / "n", from_=str(base), steps=3, set=["batch.rows=4"])
    assert isinstance(went_on.validation, Validation)
    assert went_on.validation.bits_per_byte < muon.json["validation"]["bits_per_byte"]


def test_the_smallest_shape_serves_where_only_its_dials_are_set(base, tmp_path, command):
    said = command("pretrain", base / "run" / "corpus", "--out", tmp_path / "m", "--steps", 2, *TINY_FLAGS[4:], "--json")
    assert said.code == 0
    assert "fledge-1m" in said.err
    assert fledge.load(tmp_path / "m").arch == fledge.load(base).arch


def test_a_parent_keeps_its_weights_and_takes_what_needs_none(base, messages, questions, tmp_path, command):
    """Drop-out that is asked for happens, wherever a model goes on, and what does not fit its weights is refused."""
    verbs = {"pretrain": base / "run" / "corpus", "finetune classify": messages, "finetune instruct": questions}
    for verb, data in verbs.items():
        words = [*verb.split(), data, "--from", base, "--set", "batch.rows=2", "--set", "batch.context=128"]
        words += ["--steps", 2] if verb == "pretrain" else ["--epochs", 1]
        made = []
        for dropout in (0.0, 0.5):
            out = tmp_path / f"{verb} {dropout}"
            assert command(*words, "--out", out, "--set", f"arch.dropout={dropout}").code == 0
            made.append(weights(out))
        assert made[0] != made[1]
        misfit = command(*words, "--out", tmp_path / "misfit", "--set", "arch.decoder.depth=2")
        assert misfit.code == 2
        assert "arch.decoder.depth: 1 -> 2" in misfit.err
        assert not (tmp_path / "misfit").exists()


def test_changed_weights_are_no_parent(base, messages, questions, tmp_path, command):
    shutil.copytree(base, tmp_path / "m")
    damaged = bytearray(weights(base))
    damaged[-3] ^= 1
    (tmp_path / "m" / "model.safetensors").write_bytes(damaged)
    verbs = {"pretrain": base / "run" / "corpus", "finetune classify": messages, "finetune instruct": questions}
    for verb, data in verbs.items():
        said = command(*verb.split(), data, "--from", tmp_path / "m", "--out", tmp_path / "o")
        assert said.code == 2
        assert "has changed since it was saved" in said.err
        assert not (tmp_path / "o").exists()


def test_a_failed_start_blocks_nothing_and_a_run_keeps_its_text(text, tmp_path, command):
    whole = text.read_text(encoding="utf-8")
    mine = tmp_path / "mine.txt"
    words = ["pretrain", mine, "--out", tmp_path / "m", *TINY_FLAGS, "--steps", 3]
    mine.write_text(whole[:60], encoding="utf-8")
    assert "give more text" in command(*words).err
    assert not (tmp_path / "m").exists()
    there = tmp_path / "there"
    there.mkdir()
    assert "unknown" in command("pretrain", text, "--out", there, *TINY_FLAGS, "--steps", 3, "--set", "batch.row=3").err
    assert not list(there.iterdir())
    mine.write_text(whole[:3000], encoding="utf-8")
    assert command(*words).code == 0
    before = weights(tmp_path / "m")
    mine.write_text(whole[:4000], encoding="utf-8")
    assert "was prepared from other text" in command(*words).err
    shutil.rmtree(tmp_path / "m" / "run" / "corpus")
    assert "other data" in command(*words).err
    assert weights(tmp_path / "m") == before


def test_signals_save_and_the_printed_command_goes_on(text, tmp_path, command):
    words = ["pretrain", str(text), "--out", str(tmp_path / "with space"), *TINY_FLAGS, "--steps", "3000", "--set", "save.seconds=1000"]
    metrics = tmp_path / "with space" / "run" / "metrics.jsonl"
    for number in (signal.SIGINT, signal.SIGTERM):
        seen = len(metrics.read_bytes()) if metrics.exists() else 0
        code = "import sys; from fledge.cli import main; sys.exit(main())"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        running = subprocess.Popen([sys.executable, "-c", code, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
        while running.poll() is None and not (metrics.exists() and len(metrics.read_bytes()) > seen + 1000):
            time.sleep(0.05)
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 128 + number, said
        assert "Stopped after step" in said
        assert "Traceback" not in said
        words = shlex.split(said.splitlines()[-1])[1:]
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps))
    settings = json.loads((tmp_path / "with space" / "run" / "run.json").read_text())
    assert settings["plan"]["steps"] == 3000


def test_a_full_disk_leaves_the_last_good_checkpoint(text, tmp_path, command, monkeypatch):
    words = ["pretrain", text, "--out", tmp_path / "m", *TINY_FLAGS, "--steps", 20, "--set", "save.steps=5"]
    save, before = checkpoint.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(folder, step, *rest):
        if step > 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        return save(folder, step, *rest)

    monkeypatch.setattr(checkpoint, "save", fill_the_disk)
    try:
        full = command(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    monkeypatch.undo()
    assert full.code == 1
    assert "the disk is full" in full.err
    assert checkpoint.saved_steps(tmp_path / "m" / "run")[-1] == 5
    fledge.load(tmp_path / "m")
    went_on = command(*words)
    assert went_on.code == 0
    assert "Going on from" in went_on.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", 3, "--arch", "gpt3"], "did you mean gpt2"),
        (["--steps", 3, "--arch", "fledge-1m", "--set", "optimizer.rte=1"], "did you mean rate"),
        (["--steps", 3, "--arch", "fledge-1m", "--set", "arch.dpth=3"], "did you mean depth"),
        (["--steps", 3, "--set", "arch.dpth=3"], "did you mean depth"),
        (["--time", "0s"], "90s, 30m"),
        (["--steps", 3, "--set", "batch.rows"], "name=value"),
        (["--steps", "many"], "--steps"),
        (["--steps", -3], "steps"),
        (["--steps", 3, "--time", "1m"], "give one of them"),
        (["--time", "abc"], "90s, 30m"),
        (["--steps", 3, "--from", "nowhere"], "nowhere"),
        (["--steps", 3, "--dtype", "float16"], "float16"),
        (["--steps", 3, "--device", "cuda:7"], "cuda"),
        (["--steps", 3, "--set", "machine.device=gpu"], "auto, cpu or cuda"),
        (["--steps", 0], "at least 1"),
        (["--steps", 3, "--stps", 4], "--stps"),
        (["--steps", 3, "--set", "batch.context=100000"], "context"),
    ],
)
def test_wrong_use_is_one_sentence(base, tmp_path, command, flags, words):
    said = command("pretrain", base / "run" / "corpus", "--out", tmp_path / "m", *flags)
    assert said.code == 2
    assert words in said.err
    assert not said.out
    assert not (tmp_path / "m" / "run" / "run.json").exists()


def test_text_too_short_and_a_place_that_is_taken(tmp_path, command, base, messages):
    (tmp_path / "short.txt").write_text("Too little to learn from.\n" * 3)
    short = command("pretrain", tmp_path / "short.txt", "--out", tmp_path / "m", "--tokenizer", "bytes", "--steps", 3)
    assert short.code == 2
    assert "give more text" in short.err
    taken = command("pretrain", tmp_path / "short.txt", "--out", messages.parent, "--steps", 3)
    assert taken.code == 2
    assert "choose another --out" in taken.err
