import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fledge.adapt.low import attach, changes_of, maps_of, trained
from fledge.adapt.settings import Lora
from fledge.data.batches import Batch as Examples
from fledge.model import Transformer, initialise
from fledge.train import checkpoint, training
from fledge.train.loop import Stopped
from fledge.train.objective import PredictTokens
from fledge.train.run import Guard, Plan, Save, Stable, read_run, write_run
from fledge.train.training import train
from tests.train.toy import OPTIMIZERS, VOCABULARY, Toy, a_run, go

ROOT = Path(__file__).parents[2]
OF_THE_MACHINE = {"seconds", "tokens_per_second", "mfu", "memory", "peak_memory", "seconds_left"}


def interrupt_at(step: int):
    def hook(state):
        if state.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return hook


def saved(folder: Path) -> checkpoint.Checkpoint:
    found = checkpoint.newest_good(folder / "run", pytest.fail)
    assert found is not None
    return found


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def assert_same_end(one: Path, other: Path):
    """Weights, optimiser state and every logged loss are equal to the bit."""
    a, b = saved(one), saved(other)
    assert a.step == b.step
    for left, right in ((a.weights, b.weights), (a.optimizer, b.optimizer)):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    timeless = [
        [{k: v for k, v in line.items() if k not in OF_THE_MACHINE} for line in metrics(folder) if "pause" not in line]
        for folder in (one, other)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_is_bit_equal(tmp_path, optimizer):
    run = a_run(optimizer, steps=15, evaluate=4, average=0.6)
    go(run, tmp_path / "whole")
    for step in (3, 4, 11):
        with pytest.raises(Stopped, match=f"after step {step} of 15") as stopped:
            go(run, tmp_path / "parts", after_step=[interrupt_at(step)])
        assert stopped.value.exit_code == 130
    _, result = go(run, tmp_path / "parts")
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    assert result.steps == 15
    assert result.validation["loss"] == pytest.approx(
        min(line["validation"]["loss"] for line in metrics(tmp_path / "parts") if "validation" in line)
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_mean_of_the_last_weights_is_validated_and_exported_and_does_not_change_training(tmp_path, optimizer):
    run = a_run(optimizer, steps=12, evaluate=4, average=0.6)
    plain, _ = go(replace(run, save=replace(run.save, average=0.0)), tmp_path / "plain")
    weights, exported = [], []
    model, _ = go(
        run,
        tmp_path / "averaged",
        after_step=[lambda state: weights.append({name: p.detach().clone() for name, p in state.model.named_parameters()})],
        export=lambda snapshot, scores: exported.append((snapshot.step, snapshot.model, scores)),
        best_of=lambda scores: -len(exported),  # each is the best
    )
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    step, kept, scores = exported[-1]
    assert step == 12
    for name, parameter in kept.named_parameters():
        torch.testing.assert_close(parameter, torch.stack([one[name] for one in weights[-8:]]).mean(0), rtol=1e-5, atol=1e-6)
    before, after = (
        [line["validation"]["loss"] for line in metrics(tmp_path / name) if "validation" in line] for name in ("plain", "averaged")
    )
    assert before[0] == after[0]
    assert before[1:] != after[1:]
    assert scores["loss"] == after[-1]


def test_a_plan_that_gets_shorter_leaves_each_averaged_step_its_weight(tmp_path):
    """Of 12 steps the last 6 would be averaged; at the sixth they become 8, of which the fifth and sixth would have been already."""
    weights, exported = [], []

    def look(state):
        if state.step == 6:
            state.plan = state.plan.revised(state.step, 8)
        if state.step >= 6:
            weights.append(state.model.embedding.weight.detach().clone())

    go(
        a_run(steps=12, evaluate=100, average=0.5), tmp_path, after_step=[look],
        export=lambda snapshot, scores: exported.append(snapshot.model),
    )  # fmt: skip
    assert len(weights) == 3
    torch.testing.assert_close(exported[-1].embedding.weight, torch.stack(weights).mean(0), rtol=1e-5, atol=1e-6)


def test_a_resumed_adapter_is_bit_equal_and_its_base_stays(tmp_path):
    lora = Lora(4, dropout=0.2)
    run = replace(a_run(steps=12, evaluate=4, average=0.6), adapter=lora)

    def start() -> Transformer:
        model = initialise(Transformer(run.arch), seed=run.machine.seed)
        return attach(model, changes_of(maps_of(model), lora), run.machine.seed)

    go(run, tmp_path / "whole", start=start)
    for step in (3, 7):
        with pytest.raises(Stopped):
            go(run, tmp_path / "parts", start=start, after_step=[interrupt_at(step)])
    model, _ = go(run, tmp_path / "parts", start=start)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    assert saved(tmp_path / "parts").weights.keys() == trained(model).keys()
    before, after = start().state_dict(), model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained(model).keys()


@pytest.fixture
def start():
    """Start `toy.py` in a process of its own; none outlives the test."""
    processes = []

    def start(folder: Path, optimizer: str, steps: int, rest: float = 0.01) -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.train.toy", str(folder), optimizer, str(steps), str(rest)]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for_line(process: subprocess.Popen, folder: Path):
    path, until = folder / "run" / "metrics.jsonl", time.monotonic() + 100
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_killed_run_ends_like_one_that_was_not(tmp_path, start):
    seed = random.randrange(10**6)
    print("seed", seed)
    processes = {optimizer: start(tmp_path / f"{optimizer}-killed", optimizer, 60) for optimizer in OPTIMIZERS}
    for optimizer, process in processes.items():
        wait_for_line(process, tmp_path / f"{optimizer}-killed")
        time.sleep(random.Random(seed).uniform(0, 0.5))
        process.kill()
        process.communicate()
        run = a_run(optimizer, 60, save_steps=3, evaluate=5)
        go(run, tmp_path / f"{optimizer}-killed")
        go(run, tmp_path / f"{optimizer}-whole")
        assert_same_end(tmp_path / f"{optimizer}-whole", tmp_path / f"{optimizer}-killed")


def test_a_signal_saves_and_says_how_to_go_on(tmp_path, start):
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143}
    processes = {number: start(tmp_path / number.name, "adamw", 10_000) for number in codes}
    for number, process in processes.items():
        wait_for_line(process, tmp_path / number.name)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert process.returncode == codes[number], err
        assert "the same command goes on" in out
        assert f"after step {saved(tmp_path / number.name).step:,} of 10,000" in out


def test_a_second_signal_ends_at_once(tmp_path, start):
    """In the middle of a step that takes a minute, without saving."""
    processes = {number: start(tmp_path / number.name, "adamw", 100, rest=60) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, process in processes.items():
        wait_for_line(process, tmp_path / number.name)
        began = time.monotonic()
        while process.poll() is None and time.monotonic() < began + 50:
            process.send_signal(number)
            time.sleep(0.2)
        assert process.returncode == 128 + number
        assert checkpoint.saved_steps(tmp_path / number.name / "run") == []


def test_a_finished_run_says_so_and_changes_nothing(tmp_path):
    run = a_run(steps=4)
    go(run, tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != "log.txt"}
    heard = []
    _, result = go(run, tmp_path, say=heard.append)
    assert "finished" in heard[-1]
    assert result.steps == 4
    assert before == {path: path.read_bytes() for path in before}


def test_other_settings_are_refused_with_the_difference(tmp_path):
    run = a_run(steps=4)
    go(run, tmp_path)
    with pytest.raises(ValueError, match=r"optimizer\.rate: 0\.01 -> 0\.5"):
        go(replace(run, optimizer=replace(run.optimizer, rate=0.5)), tmp_path)
    go(run, tmp_path / "asked", asked={"time": "5m"})
    with pytest.raises(ValueError, match=r'time: "5m" -> "6m"'):
        read_run(tmp_path / "asked" / "run", {"time": "6m"})
    assert read_run(tmp_path / "asked" / "run", {"time": "5m", "set": {"guard.not_finite": "skip"}})
    with pytest.raises(ValueError, match=r"set: null -> .*optimizer\.rate"):
        read_run(tmp_path / "asked" / "run", {"time": "5m", "set": {"guard.not_finite": "skip", "optimizer.rate": "1"}})


def test_a_gradient_that_is_not_finite_reaches_nothing(tmp_path):
    run = a_run(steps=20, evaluate=3)

    def poison(state):
        if state.step == 7:
            state.model.trunk.blocks[1].mlp.inner.down.weight.register_hook(lambda gradient: gradient * torch.nan)
            state.kept = {k: v.clone() for k, v in state.model.state_dict().items()} | state.optimizer.tensors()
            state.kept = {k: v.clone() for k, v in state.kept.items()}
            seen.append(state)

    seen = []
    with pytest.raises(FloatingPointError, match=r"step 7: the gradient of decoder\.blocks\.1\.mlp\.inner\.down\.weight is not finite"):
        go(run, tmp_path, after_step=[poison])
    state = seen[0]
    now = state.model.state_dict() | state.optimizer.tensors()
    assert all(torch.equal(now[name], state.kept[name]) for name in now)
    assert saved(tmp_path).step <= 7
    assert all(tensor.isfinite().all() for tensor in saved(tmp_path).weights.values())
    go(run, tmp_path)
    go(run, tmp_path / "clean")
    assert_same_end(tmp_path, tmp_path / "clean")


@dataclass(frozen=True)
class Spoilt(Toy):
    """Some batches have random labels."""

    bad: range = range(0)

    def batch_at(self, step: int, place: int = 0, places: int = 1) -> list[Examples]:
        parts = super().batch_at(step, place, places)
        if step not in self.bad:
            return parts
        dice = np.random.default_rng(step)
        return [replace(part, labels=dice.integers(VOCABULARY, size=part.labels.shape)) for part in parts]


def guarded(steps: int = 36, **guard):
    return replace(a_run(steps=steps, save_steps=6, dropout=0.1), guard=Guard(window=8, sigmas=3.0, **guard))


def test_a_spike_is_rewound_and_its_batches_are_left_out(tmp_path):
    """It ends like a run that was planned without those batches, however often it is stopped."""
    bad, heard = Spoilt(bad=range(20, 23)), []

    def plan_of(folder: Path) -> Plan:
        run = read_run(folder / "run")
        assert run is not None
        return run.plan

    def crash_at(step: int):
        def hook(state):
            if state.step == step:
                raise RuntimeError

        return hook

    go(guarded(spike="rewind"), tmp_path / "whole", batches=bad, evaluate=None, say=heard.append)
    [told] = [sentence for sentence in heard if "leapt" in sentence]
    assert told.startswith("step 22: the loss has leapt")
    assert told.endswith("step-18, and on without batches 18 to 22.")
    assert plan_of(tmp_path / "whole").skips == ((18, 5),)
    for folder, stop, ending in (("crashed", crash_at, RuntimeError), ("stopped", interrupt_at, Stopped)):
        for step in (17, 20, 21, 22, 29):
            with pytest.raises(ending):
                go(guarded(spike="rewind"), tmp_path / folder, batches=bad, evaluate=None, after_step=[stop(step)])
        go(guarded(spike="rewind"), tmp_path / folder, batches=bad, evaluate=None)
    assert plan_of(tmp_path / "whole") == plan_of(tmp_path / "crashed") == plan_of(tmp_path / "stopped")
    for folder in ("whole", "crashed", "stopped"):
        planned = tmp_path / f"{folder} as planned"
        (planned / "run").mkdir(parents=True)
        write_run(planned / "run", replace(guarded(), plan=plan_of(tmp_path / folder)))
        go(guarded(), planned, batches=bad, evaluate=None)
        assert_same_end(tmp_path / folder, planned)
        assert saved(tmp_path / folder).facts["losses"] == saved(planned).facts["losses"]


def test_where_going_back_does_not_help_it_goes_further_back_and_then_on(tmp_path):
    heard = []
    result = go(guarded(spike="rewind"), tmp_path / "further", batches=Spoilt(bad=range(20, 1000)), evaluate=None, say=heard.append)[1]
    ends = [sentence.rpartition("step-")[2].partition(",")[0] for sentence in heard if "Going back" in sentence]
    assert ends == ["18", "12"]
    assert result.steps == 36
    never = replace(guarded(steps=24, spike="rewind"), save=Save(steps=1000))
    result = go(never, tmp_path / "nowhere", batches=Spoilt(bad=range(20, 24)), evaluate=None, say=heard.append)[1]
    assert sum("There is no checkpoint before it" in sentence for sentence in heard) == 1
    assert result.steps == 24


def test_a_spike_is_only_told_where_nothing_else_is_asked_for(tmp_path):
    heard = []
    go(guarded(), tmp_path / "told", batches=Spoilt(bad=range(20, 23)), evaluate=None, say=heard.append)
    assert sum("guard.spike=rewind" in sentence for sentence in heard) == 1
    go(guarded(), tmp_path / "fine", evaluate=None, say=heard.append)
    assert sum("leapt" in sentence for sentence in heard) == 1


def test_batches_that_are_not_finite_are_skipped_by_choice_up_to_ten_in_a_row(tmp_path):
    class Poisoned(PredictTokens):
        def __call__(self, model, batch):
            return super().__call__(model, batch) * (torch.nan if model.training and bad.now in bad.steps else 1)

    class Watched(Toy):
        def batch_at(self, step: int, place: int = 0, places: int = 1) -> list[Examples]:
            bad.now = step
            return super().batch_at(step, place, places)

    bad = argparse.Namespace(now=-1, steps=range(5, 8))
    run = a_run(steps=12, evaluate=3)
    with pytest.raises(FloatingPointError, match=r"step 5: the loss of micro-batch 1 of 2 is nan.*guard\.not_finite=skip"):
        go(run, tmp_path, batches=Watched(), objective=Poisoned())
    run = replace(run, guard=Guard(not_finite="skip"))  # the same run goes on with another guard
    assert go(run, tmp_path, batches=Watched(), objective=Poisoned())[1].steps == 12
    kept = read_run(tmp_path / "run")
    assert kept is not None
    assert (kept.plan.skips, kept.guard) == (((5, 3),), run.guard)
    (tmp_path / "planned" / "run").mkdir(parents=True)
    write_run(tmp_path / "planned" / "run", replace(a_run(steps=12, evaluate=3), plan=kept.plan))
    go(a_run(steps=12, evaluate=3), tmp_path / "planned")
    assert_same_end(tmp_path, tmp_path / "planned")
    bad.steps = range(5, 100)
    with pytest.raises(FloatingPointError, match="step 5"):
        go(run, tmp_path / "all", batches=Watched(), objective=Poisoned())
    kept = read_run(tmp_path / "all" / "run")
    assert kept is not None
    assert kept.plan.skips == ((5, 10),)


def test_the_last_two_and_the_best_are_kept(tmp_path):
    scores = {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.0, 10: 2.0}
    exported, steps = [], iter(scores)
    run = a_run(steps=10, save_steps=1, evaluate=2)
    go(run, tmp_path, evaluate=lambda model: {"loss": scores[next(steps)]}, export=lambda state, scores: exported.append(state.step))
    assert checkpoint.saved_steps(tmp_path / "run") == [4, 9, 10]
    assert exported == [1, 2, 4]  # the first save, then each best
    assert saved(tmp_path).facts["best"]["step"] == 4


def test_patience_ends_training_and_survives_a_stop(tmp_path):
    scores = {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.0, 10: 0.5}
    run = a_run(steps=20, evaluate=2, patience=2)
    for folder, stops in (("whole", []), ("parts", [6, 8])):
        now = []
        look = [lambda state, now=now: now.append(state.step)]
        for step in stops:
            with pytest.raises(Stopped):
                go(
                    run,
                    tmp_path / folder,
                    evaluate=lambda model, now=now: {"loss": scores[now[-1]]},
                    after_step=[*look, interrupt_at(step)],
                )
        _, result = go(run, tmp_path / folder, evaluate=lambda model, now=now: {"loss": scores[now[-1]]}, after_step=look)
        assert (result.steps, result.best_step) == (8, 4)
        assert "did not get better 2 times" in result.ended


def test_the_first_save_exports_even_without_a_validation(tmp_path):
    exported = []
    go(a_run(steps=5), tmp_path / "none", evaluate=None, export=lambda state, scores: exported.append((state.step, scores)))
    assert exported == [(5, {})]
    with pytest.raises(Stopped):
        go(a_run(steps=500), tmp_path / "stopped", export=lambda state, scores: exported.append(state.step), after_step=[interrupt_at(2)])
    assert exported[1:] == [2]


class Clock:
    """Steps take 40 ms, from the 25th on half as much, validations a fifth."""

    strftime = staticmethod(time.strftime)

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def step(self, state):
        self.now += 0.04 if state.step < 25 else 0.02

    def validation(self, model) -> dict[str, float]:
        self.now += 0.2
        return {"loss": 1.0}


def timed(run, folder: Path, monkeypatch, clock: Clock, *hooks):
    monkeypatch.setattr(training, "time", clock)
    return go(run, folder, evaluate=clock.validation, after_step=[clock.step, *hooks])[1]


@pytest.mark.parametrize("first_guess", [20, 500])
def test_a_time_budget_is_kept_and_its_log_replays_to_the_bit(tmp_path, monkeypatch, first_guess):
    run = replace(a_run(steps=first_guess), plan=Plan(steps=first_guess, seconds=3.0, reserve=0.3), schedule=Stable(warmup=2, decay=0.3))
    result = timed(run, tmp_path / "timed", monkeypatch, Clock())
    assert result.seconds == pytest.approx(2.7, rel=0.1)
    kept = read_run(tmp_path / "timed" / "run")
    assert kept is not None
    plan = kept.plan
    assert plan.revisions
    assert saved(tmp_path / "timed").step == result.steps == plan.total(10**9)
    steps = [line for line in metrics(tmp_path / "timed") if "loss" in line]
    assert steps[-1]["learning_rate"] < 0.15 * max(line["learning_rate"] for line in steps)
    validations = [line["step"] for line in metrics(tmp_path / "timed") if "validation" in line]
    assert 1 <= len(validations) <= 2  # 5 % of three seconds, and the last

    for step in (15, 33):  # stopped and resumed, it keeps to its own log and to the time in all
        with pytest.raises(Stopped):
            timed(run, tmp_path / "parts", monkeypatch, Clock(), interrupt_at(step))
    assert timed(run, tmp_path / "parts", monkeypatch, Clock()).seconds == pytest.approx(2.7, rel=0.1)

    monkeypatch.undo()
    replay = replace(run, plan=replace(plan, seconds=None))
    folder = tmp_path / "replayed"
    (folder / "run").mkdir(parents=True)
    write_run(folder / "run", replay)
    go(replay, folder)
    a, b = saved(tmp_path / "timed"), saved(folder)
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


def test_a_full_disk_leaves_the_older_checkpoints_whole(tmp_path, monkeypatch):
    run = a_run(steps=12, evaluate=3)

    def full(*_):
        raise checkpoint.SafetensorError("No space left on device (os error 28)")

    def fill(state):
        if state.step == 8:
            monkeypatch.setattr(checkpoint, "save_file", full)

    with pytest.raises(OSError, match=r"needs at least [\d,]+ bytes: No space left"):
        go(run, tmp_path, after_step=[fill])
    monkeypatch.undo()
    assert saved(tmp_path).step == 6
    assert not list((tmp_path / "run").glob("*.unfinished"))
    go(run, tmp_path)
    go(run, tmp_path / "clean")
    assert_same_end(tmp_path, tmp_path / "clean")


def test_training_goes_on_while_a_save_is_written(tmp_path, monkeypatch):
    """A save is held up until two more steps are done: what it writes and exports is still of its own step."""
    save, release, weights, exported = checkpoint.save, threading.Event(), {}, {}

    def held(*arguments):
        assert release.wait(20)
        return save(*arguments)

    def look(state):
        weights[state.step] = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
        if state.step == 6:
            assert checkpoint.saved_steps(tmp_path / "run") == []
            release.set()

    monkeypatch.setattr(checkpoint, "save", held)
    export = lambda snapshot, scores: exported.update({snapshot.step: snapshot.model.state_dict()})  # noqa: E731
    go(a_run(steps=7, save_steps=4), tmp_path, evaluate=None, export=export, after_step=[look])
    assert list(exported) == checkpoint.saved_steps(tmp_path / "run") == [4, 7]
    for step, found in exported.items():
        on_disk = load_file(tmp_path / "run" / f"step-{step}" / "weights.safetensors")
        assert found.keys() == on_disk.keys() == weights[step].keys()
        assert all(torch.equal(found[name], weights[step][name]) and torch.equal(found[name], on_disk[name]) for name in found)
    assert [line["step"] for line in metrics(tmp_path) if line.get("pause", -1) >= 0] == [4, 7]
    assert "Saved step-4 in" in (tmp_path / "run" / "log.txt").read_text()


def test_what_goes_wrong_in_a_save_is_raised_and_never_lost(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "not allowed", "there")

    def poison(state):
        if state.step == 4:
            state.model.embedding.weight.register_hook(lambda gradient: gradient * torch.nan)

    monkeypatch.setattr(checkpoint, "save", refused)
    steps = []
    with pytest.raises(PermissionError, match="not allowed"):
        go(a_run(steps=500, save_steps=4), tmp_path / "one", evaluate=None, after_step=[lambda state: steps.append(state.step)])
    assert steps[-1] <= 8
    with pytest.raises(FloatingPointError, match="step 4"):
        go(a_run(steps=500, save_steps=4), tmp_path / "two", evaluate=None, after_step=[poison])
    for folder in ("one", "two"):
        assert "not allowed" in (tmp_path / folder / "run" / "log.txt").read_text()


def test_it_overfits_a_batch(tmp_path):
    for optimizer in OPTIMIZERS:
        run = a_run(optimizer, steps=60, dropout=0.0)
        model = initialise(Transformer(run.arch))
        result = train(
            run,
            model,
            type("One", (Toy,), {"batch_at": lambda self, step: Toy().batch_at(0)})(),
            PredictTokens(),
            tmp_path / optimizer,
            say=lambda sentence: None,
        )
        assert result.loss < 0.05
