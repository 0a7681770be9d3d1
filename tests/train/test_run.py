import subprocess
import sys
from dataclasses import fields, is_dataclass, replace

import pytest

from fledge.arch import Classes
from fledge.arch.record import from_json, to_json, with_setting
from fledge.presets import gpt2
from fledge.train.run import AdamW, Batch, Constant, Cosine, Data, Muon, Plan, Run, Save, Stable, read_run, write_run

RUN = Run(gpt2(64, 2, 2, vocabulary=512, context=256))


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()])
@pytest.mark.parametrize("schedule", [Stable(), Cosine(), Constant()])
def test_a_run_survives_its_file(tmp_path, optimizer, schedule):
    run = replace(RUN, optimizer=optimizer, schedule=schedule, plan=Plan(10, 60.0).revised(3, 8).revised(5, 12))
    write_run(tmp_path, run, {"time": "1m"})
    assert read_run(tmp_path, {"time": "1m"}) == run
    write_run(tmp_path, RUN)
    assert read_run(tmp_path, {"time": "1m"}) == RUN
    assert read_run(tmp_path / "nowhere") is None


def leaves(record, where=""):
    for f in fields(record):
        value = getattr(record, f.name)
        yield from leaves(value, f"{where}{f.name}.") if is_dataclass(value) else [(f"{where}{f.name}", value)]


def test_every_field_can_be_set():
    for place, value in leaves(RUN):
        if not isinstance(value, tuple):
            assert with_setting(RUN, place, str(value)) == RUN, place
    assert with_setting(RUN, "optimizer.rate", "1e-3").optimizer.rate == 1e-3
    assert with_setting(RUN, "optimizer.rate", ".015").optimizer.rate == 0.015
    assert with_setting(RUN, "optimizer", '{"kind": "Muon", "rate": 0.01}').optimizer == Muon(rate=0.01)
    assert with_setting(RUN, "plan.revisions", "[[3, 9]]").plan.total(4) == 9


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("optimiser.rate", "1", "did you mean optimizer"),
        ("optimizer.rat", "1", "did you mean rate"),
        ("optimizer.rate", "-1", "0 is the least"),
        ("optimizer.betas", "[0.9, 1.0]", r"each lies in \[0, 1\)"),
        ("batch.rows", "0", "1 is the least"),
        ("batch.context", "512", "the model takes 256 tokens: use batch.context=256"),
        ("schedule.decay", "1.5", "from 0 to 1"),
        ("data.objective", "classify", "the model ends in Words"),
        ("plan.seconds", "0", "give more than 0"),
        ("plan.revisions", "[[5, 9], [3, 9]]", "not in the order"),
        ("machine.dtype", "float16", "float32, bfloat16"),
        ("save.keep", "0", "1 is the least"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(place, value, complaint):
    with pytest.raises(ValueError, match=complaint):
        with_setting(RUN, place, value)


def test_a_broken_run_file_is_said(tmp_path):
    for content in ("{", "[]", "{}", '{"asked": {}, "arch": 3}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ValueError, match=r"run\.json cannot be read"):
            read_run(tmp_path)


def test_parts():
    assert Batch(4, 3, 10).tokens == 120
    plan = Plan(100).revised(10, 80).revised(20, 90)
    assert [plan.total(step) for step in (0, 9, 10, 19, 20, 99)] == [100, 100, 80, 80, 90, 90]
    classifier = Run(RUN.arch.with_head(Classes(("ham", "spam"))), Data(objective="classify"), save=Save(patience=3))
    assert from_json(Run, to_json(classifier)) == classifier


def test_a_run_needs_no_torch():
    code = "import sys, importlib; import fledge.train.run; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
