"""`train`: the loop with all that lies around it on disk, so that the same call goes on where an earlier one ended."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from fledge.data.batches import Batch
from fledge.model import Transformer
from fledge.train import checkpoint
from fledge.train.loop import Hook, State, Stopped, on_machine, precision, run_steps, signals_held
from fledge.train.meter import Meter
from fledge.train.objective import Objective
from fledge.train.optimizer import Optimizer
from fledge.train.parallel import ranks
from fledge.train.parallel.engine import fill, put_on
from fledge.train.parallel.spread import spread_of
from fledge.train.plan import revised_total
from fledge.train.run import Machine, Run, read_run, refuse_changes, settings, write_run
from fledge.train.tracking import Tracker, numbers_of, opened

EVALUATION_SHARE = 0.05  # of the wall time, at most
LINES = 1000  # of metrics.jsonl for a run, about

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


def validate(model: Transformer, objective: Objective, batches: Iterable[Batch], machine: Machine) -> Scores:
    """The mean loss over `batches` with drop-out off, in nats over what the objective counts."""
    spread, total, count = spread_of(model), 0.0, 0.0
    model.eval()
    with torch.no_grad(), precision(machine):
        for batch in batches:
            own = batch.share(*spread.data)
            loss = float(objective(model, batch if own is None else own))  # with no row of its own a rank keeps the others company
            if own is not None:
                total += loss
                count += objective.count(own)
            spread.alive("validating")
    total, count = spread.sums(total, count)
    if not count:
        raise ValueError("nothing to validate on: give more text, or a larger share of it to validation")
    return {"loss": total / count}


def train(
    run: Run,
    model: Transformer,
    batches: Batches,
    objective: Objective,
    folder: Path,
    *,
    evaluate: Callable[[Transformer], Scores] | None = None,
    best_of: Callable[[Scores], float] = lambda scores: scores["loss"],
    export: Callable[[State, Scores], None] = lambda state, scores: None,
    after_step: Sequence[Hook] = (),
    bytes_per_token: float | None = None,
    asked: Mapping | None = None,
    started: float | None = None,
    track: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Result:
    """Train `model` as `run` says, keeping everything in `folder/run`; called again, it goes on from the newest good checkpoint.

    `evaluate` scores the model on validation data, `best_of` makes of those one number (less is better), `export` writes
    the model folder whenever that is a new best. `started` is when the command began on the clock of `time.monotonic`,
    `asked` what the user typed (for `read_run`), `track` names who else is told the numbers (`fledge.train.tracking`). What follows
    a resumption is bit-equal to a run that never stopped.

    Raises `ValueError` when `folder` holds a run with other settings, `Stopped` after a signal (saved), `FloatingPointError`
    for a loss or gradient that is not finite, `OSError` when a checkpoint cannot be written; older checkpoints stay whole.
    """
    place = folder / "run"
    place.mkdir(parents=True, exist_ok=True)
    begun = read_run(place)
    if begun is not None:
        refuse_changes(place, settings(begun), settings(run))
        run = replace(run, plan=begun.plan)
    if begun != run and ranks.rank() == 0:
        write_run(place, run, asked)
    ranks.lead()
    with (
        Diary(place, started, bytes_per_token, say, silent=ranks.rank() > 0) as diary,
        signals_held() as noted,
        on_machine(run.machine),
    ):
        spread = put_on(model, run.machine)
        if run.batch.rows < spread.data[1]:
            raise ValueError(f"batch.rows is {run.batch.rows}, but {spread.data[1]} processes need one each: start fewer, or set more rows")
        state = State(0, run.plan, model, Optimizer(model, run.optimizer))
        keeper = Keeper(diary, run, evaluate, best_of, export)
        if keeper.resume(state):
            diary.tell(f"This run is finished: {state.step:,} steps in {state.seconds:.0f} s. Give another --out to start anew.")
            return keeper.result(state)
        diary.meter = Meter(run, model, spread.size)
        diary.trackers = [] if diary.silent else opened(track, place, run, state.step)

        def obey_signals(state: State) -> None:
            number = spread.most(max(noted, default=0))
            if number:
                path = keeper.save(state)
                raise Stopped(
                    f"Stopped after step {state.step:,} of {state.total:,}, saved in {path}: the same command goes on from there.", number
                )

        def batch_at(step: int) -> list[Batch]:
            return batches.batch_at(step) if spread.size == 1 else batches.batch_at(step, *spread.data)

        hooks = [diary.write, keeper.replan, *after_step, keeper.validate_when_due, keeper.save_when_due, obey_signals]
        try:
            run_steps(state, objective, batch_at, run.schedule, run.machine, hooks)
        except (FloatingPointError, OSError, Stopped) as end:
            diary.log(str(end))
            raise
        keeper.finish(state)
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
        lines, words = (os.devnull if self.silent else self.place / name for name in ("metrics.jsonl", "log.txt"))
        self.lines, self.words = open(lines, "a", encoding="utf-8"), open(words, "a", encoding="utf-8")
        return self

    def __exit__(self, *_) -> None:
        self.lines.close()
        self.words.close()
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
            "loss": state.loss, **bits, "gradient_norm": state.norm, "learning_rate": state.rate,
            "tokens_per_second": round(speed, 1), **self.meter.facts(state, speed),
        }  # fmt: skip
        self.line(state, facts)
        self.restart(state)

    def restart(self, state: State) -> None:
        self.mark, self.tokens = time.monotonic(), state.tokens

    def rewind(self, state: State) -> None:
        """Forget the lines after `state.step`, which will be written again, but not the time that they took."""
        if self.silent:
            return
        path = self.place / "metrics.jsonl"
        lines = []
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:  # the last line of a killed process
                continue
        spent = max([state.seconds, *(line["seconds"] for line in lines)])
        self.lines.close()
        kept = path.with_suffix(".new")
        kept.write_text("".join(json.dumps(line) + "\n" for line in lines if line["step"] <= state.step), encoding="utf-8")
        kept.replace(path)
        self.lines = path.open("a", encoding="utf-8")
        self.started -= spent
        self.restart(state)


class Keeper:
    """Validates, keeps the best, saves and plans again: the hooks that `train` puts after each step."""

    def __init__(self, diary: Diary, run: Run, evaluate, best_of, export):
        self.diary, self.run, self.evaluate, self.best_of, self.export = diary, run, evaluate, best_of, export
        self.best: dict | None = None  # {"step", "score", "scores"} of the best validation
        self.stale = 0  # validations in a row without a better one
        self.validated = -1  # the step of the last validation
        self.exported = self.finished = False
        self.ended = ""
        self.validating = self.validation_cost = self.save_cost = 0.0  # seconds: sum, last, last
        self.aside = 0.0  # seconds since this process began in which it validated or saved
        self.last_save = self.began = time.monotonic()
        self.window = (0, self.began)  # (step, clock) that the speed is measured from, the clock stopped while aside

    def resume(self, state: State) -> bool:
        """Put `state` where the newest good checkpoint was; True when the run had ended there."""
        spread = spread_of(state.model)
        found = checkpoint.newest_good(self.diary.place, self.diary.tell, spread)
        if found is None:
            self.diary.rewind(state)
            return False
        fill(state.model, found.weights.parts(spread).items())
        state.optimizer.load(found.optimizer.parts(spread))
        facts = found.facts
        state.step, state.tokens, state.seconds, state.loss = found.step, facts["tokens"], facts["seconds"], facts["loss"]
        self.best, self.stale, self.validated, self.ended = facts["best"], facts["stale"], facts["validated"], facts["ended"]
        self.exported, self.finished, self.validating, self.validation_cost = True, facts["finished"], *facts["validating"]
        self.lose_patience(state)
        self.diary.rewind(state)
        self.window = (state.step, self.began)
        if not self.finished:
            self.diary.tell(f"Going on from {found.path}: step {state.step:,} of {state.total:,}.")
        return self.finished

    def replan(self, state: State) -> None:
        """Set a new total when the speed has drifted; `run.json` knows of it before the next step does."""
        total = spread_of(state.model).agreed(self.new_total(state)) if state.plan.seconds is not None else None
        if total is not None:
            self.diary.log(f"Planned again at step {state.step:,}: {total:,} steps instead of {state.total:,}.")
            plan = state.plan.revised(state.step, total)
            self.run = replace(self.run, plan=plan)
            if not self.diary.silent:
                write_run(self.diary.place, self.run)
            state.plan = plan

    def new_total(self, state: State) -> int | None:
        """The steps that fit the time when the speed has drifted, by this process's clock."""
        plan, now = state.plan, time.monotonic() - self.aside
        step, since = self.window
        if plan.seconds is None or now - since < plan.seconds / 20 or state.step - step < 5:
            return None
        if plan.revisions and state.step <= plan.revisions[-1][0]:
            return None
        left = plan.seconds - plan.reserve - self.validation_cost - self.save_cost - self.diary.seconds()
        left *= 1 - min(0.2, self.aside / (time.monotonic() - self.began))
        self.window = (state.step, now)
        return revised_total(plan, state.step, left, (now - since) / (state.step - step))

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
        """Score the model; a new best is exported, then saved."""
        assert self.evaluate is not None
        start, spread = time.monotonic(), spread_of(state.model)
        spread.alive("validating")
        scores = spread.agreed(self.evaluate(state.model))
        self.validated = state.step
        self.diary.line(state, {"validation": scores})
        score = self.best_of(scores)
        if not math.isfinite(score):
            raise FloatingPointError(f"step {state.step}: the validation score is {score}, so nothing was saved: use a lower rate")
        if self.best is None or score < self.best["score"]:
            self.best, self.stale, self.exported = {"step": state.step, "score": score, "scores": scores}, 0, True
            self.export_whole(state, scores)
            if state.step < state.total:
                self.save(state)
        else:
            self.stale += 1
            self.lose_patience(state)
        self.validation_cost = time.monotonic() - start
        self.validating += self.validation_cost
        self.aside += self.validation_cost
        self.diary.restart(state)

    def lose_patience(self, state: State) -> None:
        if 0 < self.run.save.patience <= self.stale:
            state.stop = f"validation did not get better {self.stale} times in a row"

    def save_when_due(self, state: State) -> None:
        steps, since = self.run.save.steps, time.monotonic() - self.last_save
        late = since >= max(self.run.save.seconds, 20 * self.save_cost)
        if state.step % steps == 0 if steps else spread_of(state.model).agreed(late):
            self.save(state)
            self.aside += self.save_cost
            self.diary.restart(state)

    def save(self, state: State) -> Path:
        """Write a checkpoint; the first save of all also exports the model, so that the folder opens from then on."""
        start, spread = time.monotonic(), spread_of(state.model)
        spread.alive("saving")
        if not self.exported:
            self.export_whole(state, {})
            self.exported = True
        facts = {
            "tokens": state.tokens, "seconds": round(self.diary.seconds(), 3), "loss": state.loss, "best": self.best, "stale": self.stale,
            "validated": self.validated, "finished": self.finished, "ended": self.ended, "revisions": state.plan.revisions,
            "validating": [self.validating, self.validation_cost],
        }  # fmt: skip
        path = checkpoint.save(self.diary.place, state.step, spread.held(state.model), state.optimizer.tensors(), facts, spread)
        if not self.diary.silent:
            checkpoint.prune(self.diary.place, self.run.save.keep, self.best["step"] if self.best else None)
        self.last_save = time.monotonic()
        self.save_cost = self.last_save - start
        return path

    def export_whole(self, state: State, scores: Scores) -> None:
        """Hand the whole model, which rank 0 alone then has, to `export`."""
        whole = spread_of(state.model).whole(state.model)
        if whole is not None:
            self.export(replace(state, model=whole), scores)

    def finish(self, state: State) -> None:
        """Validate and save a last time."""
        if self.evaluate is not None and self.validated != state.step:
            self.validate(state)
        elif self.evaluate is None:
            self.export_whole(state, {})
            self.exported = True
        self.finished, self.ended = True, state.stop or "the plan is done"
        self.save(state)
        state.seconds = self.diary.seconds()
        self.diary.tell(f"Done: {state.step:,} steps, {state.tokens:,} tokens, {self.diary.seconds():.0f} s ({self.ended}).")

    def result(self, state: State) -> Result:
        best = self.best or {"scores": {}, "step": None}
        return Result(state.step, state.tokens, state.seconds, state.loss, best["scores"], best["step"], self.ended)
