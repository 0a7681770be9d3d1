"""The numbers of a run where people look at them: read back from where each tracker keeps them."""

import json
import re
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from fledge.model import Transformer
from fledge.train import meter, tracking
from fledge.train.loop import Stopped
from fledge.train.run import Machine
from tests.train.test_training import ROOT, interrupt_at, metrics
from tests.train.toy import a_run, go


def test_every_line_says_what_the_step_cost(tmp_path):
    go(a_run(steps=6), tmp_path)
    steps = [line for line in metrics(tmp_path) if "loss" in line]
    assert len(steps) == 6
    for line in steps:
        assert 0 < line["mfu"] < 1
        assert 0 < line["memory"] <= line["peak_memory"]
    left = [line["seconds_left"] for line in steps]
    assert left[-1] == 0
    assert all(seconds >= 0 for seconds in left)
    assert left[0] > 0


def test_where_a_part_stands_still_the_share_of_the_machine_is_not_told():
    run = a_run()
    model = Transformer(run.arch)
    assert meter.Meter(run, model).flops > 0
    model.embedding.weight.requires_grad_(False)
    assert meter.Meter(run, model).flops == 0


def test_the_matrix_rate_is_measured_once():
    machine = Machine(threads=1)
    assert meter.matrix_rate(machine) == meter.matrix_rate(replace(machine)) > 1e8


def test_tensorboard_holds_what_the_metrics_hold_also_after_a_stop(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="pip install 'fledge[track]'")
    run = a_run(steps=8, evaluate=4)
    with pytest.raises(Stopped):
        go(run, tmp_path, track=("tensorboard",), after_step=[interrupt_at(3)])
    go(run, tmp_path, track=("tensorboard",))
    events = reading.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    lines = metrics(tmp_path)
    for name in ("loss", "gradient_norm", "learning_rate", "mfu"):
        told = {event.step: event.value for event in events.Scalars(name)}
        assert told == pytest.approx({line["step"]: line[name] for line in lines if name in line}, rel=1e-6)
    checked = {event.step: event.value for event in events.Scalars("validation/loss")}
    assert checked == pytest.approx({line["step"]: line["validation"]["loss"] for line in lines if "validation" in line})


def test_weights_and_biases_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    go(a_run(steps=3), tmp_path, track=("wandb",))
    identity = (tmp_path / "run" / "track.id").read_text()
    [kept] = (tmp_path / "run" / "wandb").glob(f"offline-run-*-{identity}")
    [file] = kept.glob("*.wandb")
    assert all(name in file.read_bytes() for name in (b"gradient_norm", b"validation"))


def test_trackio_keeps_a_run_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="pip install trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    call = f"go(a_run(steps=3), Path({str(tmp_path / 'three')!r}), track=['trackio'])"
    code = f"from pathlib import Path; from tests.train.toy import a_run, go; {call}"  # trackio warns while it is imported
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
    [base] = (tmp_path / "kept").glob("*.db")
    rows = [json.loads(row) for (row,) in sqlite3.connect(base).execute("select metrics from metrics order by step")]
    losses = [line["loss"] for line in metrics(tmp_path / "three") if "loss" in line]
    assert [row["loss"] for row in rows if "loss" in row] == pytest.approx(losses)


@pytest.mark.parametrize(("name", "command"), [("tensorboard", "'fledge[track]'"), ("wandb", "wandb"), ("trackio", "trackio")])
def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch, name, command):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=re.escape(f"--track {name} needs a library that is not installed: pip install {command}")):
        tracking.wanted([name])


def test_an_unknown_tracker_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean wandb"):
        tracking.wanted(["wand"])
    assert tracking.wanted(None) == ()
