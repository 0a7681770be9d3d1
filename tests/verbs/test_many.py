"""The commands under the real `torchrun` give what one process gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = [
    "--set",
    "batch.context=32",
    "--set",
    "batch.rows=4",
    "--set",
    "save.evaluate=2",
    "--seed",
    "1",
    "--dtype",
    "float32",
    "--threads",
    "1",
]


def fledge(processes: int, *words: str) -> dict:
    """What the command answers, with `--json`; with more than one process under torchrun."""
    start = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "fledge"]
        if processes > 1
        else ["-m", "fledge"]
    )
    done = subprocess.run([sys.executable, *start, *words, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in map(json.loads, (out / "run" / "metrics.jsonl").read_text().splitlines()) if "loss" in line]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_pretrain_and_finetune(tmp_path):
    for i in range(24):
        place = tmp_path / ("odd" if i % 2 else "even")
        place.mkdir(exist_ok=True)
        (place / f"{i}.txt").write_text("".join(f"Line {n} of text {i}: the river is {n * i} long.\n" for n in range(60)))
    answers = {}
    for processes, more in ((1, []), (2, []), (2, ["--set", "machine.tensor=2"])):
        out = tmp_path / f"{processes}{len(more)}"
        given = [
            f"even={tmp_path / 'even'}",
            f"odd={tmp_path / 'odd'}",
            "--mix",
            "even=0.7,odd=0.3",
            "--out",
            str(out),
            "--steps",
            "6",
            "--tokenizer",
            "bytes",
            "--set",
            "arch.depth=2",
            "--set",
            "arch.width=128",
        ]
        answers[out] = fledge(processes, "pretrain", *given, *TRAIN, *more), losses(out)
        assert {*os.listdir(out / "run")} ^ {*os.listdir(tmp_path / "10" / "run")} <= {"samples.jsonl"}  # which one process alone writes
    (alone, expected), *others = answers.values()
    for answer, found in others:
        assert found == pytest.approx(expected, rel=1e-5)
        assert answer["validation"]["loss"] == pytest.approx(alone["validation"]["loss"], rel=1e-5)

    rows = [f"the river is {n} long and {'wide' if n % 2 else 'narrow'},{'b' if n % 2 else 's'}" for n in range(80)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]))
    given = ["finetune", "classify", str(tmp_path / "rows.csv"), "--from", str(tmp_path / "10"), "--epochs", "1", *TRAIN]
    found = [fledge(processes, *given, "--out", str(tmp_path / f"c{processes}")) for processes in (1, 2)]
    assert found[1]["validation"]["loss"] == pytest.approx(found[0]["validation"]["loss"], rel=1e-4)
    assert found[1]["validation"]["accuracy"] == found[0]["validation"]["accuracy"]
