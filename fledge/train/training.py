"""`train`: the loop with all that lies around it on disk, so that the same call goes on where an earlier one ended."""

import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fledge.adapt.low import is_adapted, trained
from fledge.arch import Arch
from fledge.data.batches import Batch
from fledge.model import Transformer, shell
from fledge.train import checkpoint
from fledge.train.guard import Spikes
from fledge.train.loop import Hook, NotFinite, State, Stopped, on_machine, precision, run_steps, signals_held
from fledge.train.meter import Meter
from fledge.train.objective import Objective
from fledge.train.optimizer import Optimizer
from fledge.train.parallel import ranks
from fledge.train.parallel.engine import fill, put_on
from fledge.train.parallel.spread import Alone, spread_of
from fledge.train.plan import pace, revised_total
from fledge.train.run import Machine, Plan, Run, read_run, refuse_changes, settings, write_run
from fledge.train.tracking import Tracker, numbers_of, opened

EVALUATION_SHARE = 0.05  # of the wall time, at most
LINES = 1000  # of metrics.jsonl for a run, about
MOST_IN_A_ROW = 10  # batches left out at one step: where all are bad, the weights are

Scores = dict[str, float]


class Batches(Protocol):
    """Micro-batches as a function of the step, for one of several places a share of each."""

    def batch_at(self, step: int, place: int = 0, places: int = 1) -> list[Batch]: ...


@dataclass(frozen=True)
class Result:
    """What a run came to: `validation` holds the scores of its best step; `ended` says why it ended."""

    steps: int
    tokens: int
    seconds: float
    loss: float
    validation: Scores
    best_step: int | None
    ended: str


@dataclass(frozen=True)
class Snapshot:
    """A copy in CPU memory of where training stood after `step` steps, as it lies on this rank: nothing that follows changes it.

    `weights` are those of the model, or of its adapter where it has one; `whole` are they of all ranks together, or their means where
    these are taken, on rank 0 alone and only where they are asked for.
    """

    step: int
    arch: Arch
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    facts: dict[str, Any]
    spread: Alone
    whole: dict[str, Tensor] | None

    @classmethod
    def of(cls, state: State, facts: dict[str, Any], with_whole: bool = False) -> "Snapshot":
        spread = spread_of(state.model)
        weights, optimizer = (
            {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
            for tensors in (kept(state.model), state.optimizer.tensors())
        )
        means = {name: optimizer.get(f"{name}/mean", weight) for name, weight in weights.items()}
        whole = spread.whole(means) if with_whole else None
        return cls(state.step, state.model.arch, weights, optimizer, facts, spread, whole)

    @property
    def model(self) -> Transformer:
        """The whole model as it was."""
        assert self.whole is not None
        model = shell(self.arch)  # draws no random numbers, of which training makes use meanwhile
        model.load_state_dict(self.whole, assign=True)
        return model.eval()


def kept(model: Transformer) -> dict[str, Tensor]:
    """What a checkpoint holds of a model: the part of each parameter that lies here, of an adapted one's only those that are trained."""
    held, learns = spread_of(model).held(model), trained(model)
    return {name: tensor for name, tensor in held.items() if name in learns} if is_adapted(model) else held


def validate(model: Transformer, objective: Objective, batches: Iterable[Batch], machine: Machine) -> Scores:
    """The mean loss over `batches` with drop-out off, in nats over what the objective counts, and what else it tells."""
    spread, total, count = spread_of(model), 0.0, 0.0
    told: dict[str, float] = {}
    model.eval()
    with torch.no_grad(), precision(machine):
        for batch in batches:
            own = batch.share(*spread.data)
            loss = float(objective(model, batch if own is None else own))  # with no row of its own a rank keeps the others company
            share = objective.told() if own is not None else dict.fromkeys(objective.told(), 0.0)
            told = {name: told.get(name, 0.0) + value for name, value in share.items()}
            if own is not None:
                total += loss
                count += objective.count(own)
            spread.alive("validating")
    total, count, *others = spread.sums(total, count, *told.values())
    if not count:
        raise ValueError("nothing to validate on: give more text, or a larger share of it to validation")
    return {"loss": total / count, **{name: value / count for name, value in zip(told, others, strict=True)}}


def train(
    run: Run,
    model: Transformer,
    batches: Batches,
    objective: Objective,
    folder: Path,
    *,
    evaluate: Callable[[Transformer], Scores] | None = None,
    best_of: Callable[[Scores], float] = lambda scores: scores["loss"],
    export: Callable[[Snapshot, Scores], None] = lambda snapshot, scores: None,
    after_step: Sequence[Hook] = (),
    bytes_per_token: float | None = None,
    asked: Mapping | None = None,
    started: float | None = None,
    track: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Result:
    """Train `model` as `run` says, keeping everything in `folder/run`; called again, it goes on from the newest good checkpoint.

    `evaluate` scores the model on validation data, `best_of` makes of those one number (less is better), `export` writes
    the model folder whenever that is a new best, on the thread that saves while training goes on. `started` is when the command
    began on the clock of `time.monotonic`, `asked` what the user typed (for `read_run`), `track` names who else is told the numbers
    (`fledge.train.tracking`). What follows a resumption is bit-equal to a run that never stopped.

    Raises `ValueError` when `folder` holds a run with other settings, `Stopped` after a signal (saved), `FloatingPointError`
    for a loss or gradient that is not finite (unless `run.guard` says otherwise), `OSError` when a checkpoint cannot be written; older
    checkpoints stay whole.
    """
    place = folder / "run"
    place.mkdir(parents=True, exist_ok=True)
    begun = read_run(place)
    if begun is not None:
        refuse_changes(place, settings(begun), settings(run))
        run = replace(run, plan=begun.plan)
    if run != begun and ranks.rank() == 0:
        write_run(place, run, asked if begun is None else None)
    ranks.begin()
    if begun is None and ranks.rank() > 0 and read_run(place) is None:
        raise OSError(errno.ENOENT, "what rank 0 has written is not here: --out must lie on a disk that all machines see", str(place))
    with (
        Diary(place, started, bytes_per_token, say, silent=ranks.rank() > 0) as diary,
        signals_held() as noted,
        on_machine(run.machine),
        Keeper(diary, run, evaluate, best_of, export) as keeper,
    ):
        spread = put_on(model, run.machine)
        if run.batch.rows < spread.data[1]:
            raise ValueError(f"batch.rows is {run.batch.rows}, but {spread.data[1]} processes need one each: start fewer, or set more rows")
        state = State(0, run.plan, model, Optimizer(model, run.optimizer))

        def obey_signals(state: State) -> None:
            if number := spread.most(max(noted, default=0)):
                keeper.save(state)
                path = keeper.settle()
                raise Stopped(
                    f"Stopped after step {state.step:,} of {state.total:,}, saved in {path}: the same command goes on from there.", number
                )

        def batch_at(step: int) -> list[Batch]:
            return batches.batch_at(step) if spread.size == 1 else batches.batch_at(step, *spread.data)

        hooks = [
            diary.write, keeper.watch, keeper.replan, *after_step, keeper.average, keeper.validate_when_due, keeper.save_when_due,
            obey_signals,
        ]  # fmt: skip
        try:
            if keeper.resume(state):
                diary.tell(f"This run is finished: {state.step:,} steps in {state.seconds:.0f} s. Give another --out to start anew.")
                return keeper.result(state)
            diary.meter = Meter(run, model, spread.size)
            diary.trackers = [] if diary.silent else opened(track, place, run, state.step)
            while state.step < state.total and not state.stop:
                try:
                    run_steps(state, objective, batch_at, run.schedule, run.machine, hooks)
                except NotFinite as wrong:
                    keeper.skip(state, wrong)
                except Spike as spike:
                    keeper.go_back(state, spike)
            keeper.finish(state)
        except (FloatingPointError, Stopped) as end:
            diary.log(str(end))
            raise
        except OSError as failure:
            needed = checkpoint.bytes_of(kept(state.model), state.optimizer.tensors())
            refused = checkpoint.refusal(failure, needed, place)
            with suppress(OSError):  # it may be this very file that does not get longer
                diary.log(str(refused))
            raise refused from None
        if number := spread.most(max(noted, default=0)):
            raise Stopped(f"Stopped after the last step; everything is saved in {place}.", number)
        return keeper.result(state)


class Diary:
    """`metrics.jsonl`, those who track it, and `log.txt`; and the wall time, which counts on over resumptions.

    A `silent` one writes and says nothing.
    """

    meter: Meter

    def __init__(
        self, place: Path, started: float | None, bytes_per_token: float | None, say: Callable[[str], None], silent: bool = False
    ):  # fmt: skip
        self.place, self.bytes_per_token, self.say, self.silent = place, bytes_per_token, say, silent
        self.started = time.monotonic() if started is None else started
        self.mark, self.tokens = time.monotonic(), 0
        self.trackers: list[Tracker] = []

    def __enter__(self) -> "Diary":
        lines, words = (Path(os.devnull) if self.silent else self.place / name for name in ("metrics.jsonl", "log.txt"))
        self.lines, self.words = lines.open("a", encoding="utf-8"), words.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_) -> None:
        for file in (self.lines, self.words):
            with suppress(OSError):  # each line was written out when it was told, or refused then
                file.close()
        for tracker in self.trackers:
            tracker.close()

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def tell(self, sentence: str) -> None:
        if not self.silent:
            self.log(sentence)
            self.say(sentence)

    def log(self, sentence: str) -> None:
        self.words.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}\n")
        self.words.flush()

    def line(self, state: State, facts: dict) -> None:
        line = {"step": state.step, "tokens": state.tokens, "seconds": round(self.seconds(), 3), **facts}
        self.lines.write(json.dumps(line) + "\n")
        self.lines.flush()
        for tracker in self.trackers:
            tracker.log(state.step, numbers_of(line))

    def write(self, state: State) -> None:
        """One line for the step just done; its speed leaves out validating and saving."""
        state.seconds = self.seconds()
        early = state.step.bit_count() == 1  # powers of two, which lie evenly on a logarithmic axis
        if not early and state.step % max(1, state.total // LINES) and state.step < state.total:
            return
        bits = {"bits_per_byte": state.loss / math.log(2) / self.bytes_per_token} if self.bytes_per_token else {}
        speed = (state.tokens - self.tokens) / max(1e-9, time.monotonic() - self.mark)
        facts = {
            "loss": state.loss, **bits, **state.told, "gradient_norm": state.norm, "learning_rate": state.rate,
            "tokens_per_second": round(speed, 1), **self.meter.facts(state, speed),
        }  # fmt: skip
        self.line(state, facts)
        self.restart(state)

    def restart(self, state: State) -> None:
        self.mark, self.tokens = time.monotonic(), state.tokens

    def go_on(self, state: State) -> None:
        """Count the time of the processes before this one too, of which `state` and all lines tell, and take up their lines."""
        self.started -= max([state.seconds, *(line["seconds"] for line in self.told())])
        self.rewind(state)

    def told(self) -> list[dict]:
        """All lines of `metrics.jsonl` but the last of a killed process, which may be half of one."""
        lines = []
        for text in (self.place / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines

    def rewind(self, state: State) -> None:
        """Forget the lines after `state.step`, which will be written again."""
        if self.silent:
            return
        path, lines = self.place / "metrics.jsonl", self.told()
        self.lines.close()
        kept = path.with_suffix(".new")
        kept.write_text("".join(json.dumps(line) + "\n" for line in lines if line["step"] <= state.step), encoding="utf-8")
        kept.replace(path)
        self.lines = path.open("a", encoding="utf-8")
        self.restart(state)


class Spike(Exception):
    """The loss has leapt, as the sentence says, and the run is to go back."""


class Keeper:
    """Validates, keeps the best, saves and plans again: the hooks that `train` puts after each step.

    A save copies the state, which training waits for, and is written by another thread, one at a time. What goes wrong there is
    raised here, after the step that is then under way; leaving the `with` waits for a save and logs its error.
    """

    def __init__(self, diary: Diary, run: Run, evaluate, best_of, export):
        self.diary, self.run, self.evaluate, self.best_of, self.export = diary, run, evaluate, best_of, export
        self.best: dict | None = None  # {"step", "score", "scores"} of the best validation
        self.averaged = 0  # steps whose weights are in their means
        self.stale = 0  # validations in a row without a better one
        self.validated = -1  # the step of the last validation
        self.unexported: Scores | None = {}  # the scores of what the next save exports
        self.finished, self.ended = False, ""
        self.validating = self.validation_cost = self.save_cost = 0.0  # seconds: sum, last, last
        self.aside = 0.0  # seconds since this process began in which it validated or saved
        self.last_save = self.began = time.monotonic()
        self.spikes = Spikes(run.guard)
        self.skipped, self.in_a_row = -1, 0  # the step of the last batch that was left out, and how many it left out
        self.marks = [(0, self.began)]  # (step, clock) of each look at the speed, the clock stopped while aside
        self.writer = ThreadPoolExecutor(1, "save")
        self.saving: Future[tuple[Path, float]] | None = None  # the save under way: its folder, the seconds that it takes
        self.pause = 0.0  # seconds that training waited for the last save

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *_) -> None:
        self.writer.shutdown()
        if self.saving is not None and (failed := self.saving.exception()) is not None:
            with suppress(OSError):
                self.diary.log(str(failed))

    def resume(self, state: State) -> bool:
        """Put `state` where the newest good checkpoint was; True when the run had ended there."""
        found = checkpoint.newest_good(self.diary.place, self.diary.tell, spread=spread_of(state.model))
        if found is None:
            self.diary.go_on(state)
            return False
        self.restore(state, found)
        self.lose_patience(state)
        self.diary.go_on(state)
        if not self.finished:
            self.diary.tell(f"Going on from {found.path}: step {state.step:,} of {state.total:,}.")
        return self.finished

    def restore(self, state: State, found: checkpoint.Checkpoint) -> None:
        """Put `state`, and what is kept here, where they were when a checkpoint was saved."""
        spread = spread_of(state.model)
        fill(state.model, found.weights.parts(spread).items())
        state.optimizer.load(found.optimizer.parts(spread))
        facts = found.facts
        state.step, state.tokens, state.seconds, state.loss = found.step, facts["tokens"], facts["seconds"], facts["loss"]
        self.best, self.stale, self.validated, self.ended = facts["best"], facts["stale"], facts["validated"], facts["ended"]
        self.unexported, self.finished, self.validating, self.validation_cost = None, facts["finished"], *facts["validating"]
        self.spikes, self.averaged = Spikes(self.run.guard, facts.get("losses", ())), facts.get("averaged", 0)  # version 0.1.0 has neither
        self.marks = [(state.step, time.monotonic() - self.aside)]

    def watch(self, state: State) -> None:
        """Tell of a spike, or end these steps with it."""
        if self.spikes.sees(state.loss):
            spike = (
                f"step {state.step - 1}: the loss has leapt, from about {self.spikes.usual:.3g} to {state.loss:.3g}; "
                f"{self.run.guard.hits} in a row lie above {self.spikes.limit:.3g}"
            )
            if self.run.guard.spike == "rewind":
                raise Spike(spike)
            self.diary.tell(f"{spike}. A lower rate avoids that, and --set guard.spike=rewind goes back before it.")
            self.spikes.forget()

    def go_back(self, state: State, spike: Spike) -> None:
        """Go back to the newest checkpoint before the spike, but never twice to the same, and leave out all batches since.

        Where there is none, training goes on as it is.
        """
        self.settle()
        until, skips, spread = state.step - self.run.guard.hits, state.plan.skips, spread_of(state.model)
        earlier = spread.agreed([step for step in checkpoint.saved_steps(self.diary.place) if step <= until])
        if earlier and skips and earlier[-1] == skips[-1][0]:
            until = earlier[-1] - 1
        found = checkpoint.newest_good(self.diary.place, self.diary.tell, until, spread)
        if found is None:
            self.diary.tell(f"{spike}. There is no checkpoint before it to go back to: going on.")
            self.spikes.forget()
            return
        plan = state.plan.skipping(found.step, state.plan.batch(state.step))
        left_out = f"batches {state.plan.batch(found.step):,} to {state.plan.batch(state.step) - 1:,}"
        spread.first(lambda: self.forget_after(found.step))  # before the plan changes, for these are not of the new one
        self.follow(state, plan)
        self.restore(state, found)
        self.diary.rewind(state)
        self.diary.tell(f"{spike}. Going back to {found.path}, and on without {left_out}.")

    def forget_after(self, step: int) -> None:
        """Remove all checkpoints of later steps."""
        for later in checkpoint.saved_steps(self.diary.place):
            if later > step:
                checkpoint.remove(self.diary.place / f"step-{later}")

    def skip(self, state: State, wrong: NotFinite) -> None:
        """Leave out the batch whose loss or gradient is not finite, if the run says so and not too many were left out in a row."""
        self.in_a_row = self.in_a_row + 1 if self.skipped == state.step else 1
        self.skipped = state.step
        if self.run.guard.not_finite == "stop" or self.in_a_row > MOST_IN_A_ROW:
            raise wrong
        batch = state.plan.batch(state.step)
        self.follow(state, state.plan.skipping(state.step, batch + 1))
        self.diary.tell(f"{wrong.found}: batch {batch:,} is left out.")

    def follow(self, state: State, plan: Plan) -> None:
        """Train by another plan; `run.json` knows of it first."""
        self.run = replace(self.run, plan=plan)
        if not self.diary.silent:
            write_run(self.diary.place, self.run)
        state.plan = plan

    def replan(self, state: State) -> None:
        """Set a new total when the speed has drifted; `run.json` knows of it before the next step does."""
        total = spread_of(state.model).agreed(self.new_total(state)) if state.plan.seconds is not None else None
        if total is not None:
            self.diary.log(f"Planned again at step {state.step:,}: {total:,} steps instead of {state.total:,}.")
            self.follow(state, state.plan.revised(state.step, total))

    def new_total(self, state: State) -> int | None:
        """The steps that fit the time when the speed has drifted, by this process's clock."""
        plan, now = state.plan, time.monotonic() - self.aside
        step, since = self.marks[-1]
        if plan.seconds is None or now - since < plan.seconds / 20 or state.step - step < 5:
            return None
        if plan.revisions and state.step <= plan.revisions[-1][0]:
            return None
        left = plan.seconds - plan.reserve - self.validation_cost - self.save_cost - self.diary.seconds()
        left *= 1 - min(0.2, self.aside / (time.monotonic() - self.began))
        self.marks.append((state.step, now))
        return revised_total(plan, state.step, left, pace(self.marks))

    def average(self, state: State) -> None:
        """Take the weights into their means, in the last share of the steps."""
        if state.step > state.total - math.ceil(self.run.save.average * state.total):
            self.averaged += 1  # counted, for the plan may change meanwhile
            state.optimizer.average(1 / self.averaged)

    def validate_when_due(self, state: State) -> None:
        if self.evaluate is None:
            return
        every = self.run.save.evaluate
        if every and state.step % every:
            return
        if not every:
            if state.step % max(1, state.total // 40) or state.step >= state.total:
                return
            affordable = self.validating + self.validation_cost <= EVALUATION_SHARE * self.diary.seconds()
            if not spread_of(state.model).agreed(affordable):
                return
        self.validate(state)

    def validate(self, state: State) -> None:
        """Score the model, or what its weights are on average; a new best is exported, then saved."""
        assert self.evaluate is not None
        start, spread = time.monotonic(), spread_of(state.model)
        spread.alive("validating")
        with state.optimizer.averaged():
            scores = spread.agreed(self.evaluate(state.model))
        self.validated = state.step
        self.diary.line(state, {"validation": scores})
        score = self.best_of(scores)
        if not math.isfinite(score):
            raise FloatingPointError(f"step {state.step}: the validation score is {score}, so nothing was saved: use a lower rate")
        if self.best is None or score < self.best["score"]:
            self.best, self.stale, self.unexported = {"step": state.step, "score": score, "scores": scores}, 0, scores
            if state.step < state.total:
                self.save(state)
        else:
            self.stale += 1
            self.lose_patience(state)
        self.validation_cost = time.monotonic() - start
        self.validating += self.validation_cost
        self.aside += self.validation_cost
        spread.alive("training", state.step - 1)
        self.diary.restart(state)

    def lose_patience(self, state: State) -> None:
        if 0 < self.run.save.patience <= self.stale:
            state.stop = f"validation did not get better {self.stale} times in a row"

    def save_when_due(self, state: State) -> None:
        self.settle(wait=False)
        steps, since = self.run.save.steps, time.monotonic() - self.last_save
        late = self.saving is None and since >= max(self.run.save.seconds, 20 * self.save_cost)
        if state.step % steps == 0 if steps else spread_of(state.model).agreed(late):
            self.save(state)
            self.aside += self.pause
            self.diary.restart(state)

    def save(self, state: State) -> None:
        """Copy where training stands, for the other thread to write; the first save of all also exports the model, so that the folder
        opens from then on."""
        start = time.monotonic()
        spread_of(state.model).alive("saving")
        self.settle()
        facts = {
            "tokens": state.tokens, "seconds": round(self.diary.seconds(), 3), "loss": state.loss, "best": self.best, "stale": self.stale,
            "validated": self.validated, "finished": self.finished, "ended": self.ended, "revisions": state.plan.revisions,
            "skips": state.plan.skips, "validating": [self.validating, self.validation_cost], "losses": self.spikes.losses,
            "averaged": self.averaged,
        }  # fmt: skip
        snapshot = Snapshot.of(state, facts, with_whole=self.unexported is not None)
        self.saving, self.unexported = self.writer.submit(self.write, snapshot, self.unexported), None
        self.pause = time.monotonic() - start
        snapshot.spread.alive("training", state.step - 1)
        self.diary.line(state, {"pause": round(self.pause, 6)})

    def write(self, snapshot: Snapshot, scores: Scores | None) -> tuple[Path, float]:
        """Export the model if it has `scores`, write the checkpoint, prune the others; all in the other thread."""
        start = time.monotonic()
        if scores is not None and snapshot.whole is not None:
            self.export(snapshot, scores)
        path = checkpoint.save(self.diary.place, snapshot.step, snapshot.weights, snapshot.optimizer, snapshot.facts, snapshot.spread)
        if self.diary.silent:
            return path, time.monotonic() - start
        best, guard = snapshot.facts["best"], self.run.guard
        spared = [best["step"]] if best else []
        if guard.spike == "rewind":  # what a spike that is now beginning would go back to
            spared += [step for step in checkpoint.saved_steps(self.diary.place) if step <= snapshot.step - guard.hits][-1:]
        checkpoint.prune(self.diary.place, self.run.save.keep, spared)
        return path, time.monotonic() - start

    def settle(self, wait: bool = True) -> Path | None:
        """The checkpoint of the save under way, once it is written or if it is; raises what went wrong there."""
        if self.saving is None or not (wait or self.saving.done()):
            return None
        saving, self.saving = self.saving, None
        path, seconds = saving.result()
        self.save_cost, self.last_save = self.pause + seconds, time.monotonic()
        self.diary.log(f"Saved {path.name} in {seconds:.3f} s, beside training, which waited {self.pause:.3f} s.")
        return path

    def finish(self, state: State) -> None:
        """Validate, save a last time, and wait for it."""
        if self.evaluate is not None and self.validated != state.step:
            self.validate(state)
        elif self.evaluate is None:
            self.unexported = {}
        self.finished, self.ended = True, state.stop or "the plan is done"
        self.save(state)
        self.settle()
        spread_of(state.model).alive("done")
        state.seconds = self.diary.seconds()
        self.diary.tell(f"Done: {state.step:,} steps, {state.tokens:,} tokens, {self.diary.seconds():.0f} s ({self.ended}).")

    def result(self, state: State) -> Result:
        best = self.best or {"scores": {}, "step": None}
        return Result(state.step, state.tokens, state.seconds, state.loss, best["scores"], best["step"], self.ended)
