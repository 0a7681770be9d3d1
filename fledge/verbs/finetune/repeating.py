"""Runs from one start that read the rows in other orders, and the mean of what their weights become.

What fine-tuning makes of one pretrained model lies close together, and its mean does better than each (Wortsman et al., 2022,
arXiv:2203.05482): chance that the runs do not share is averaged out, as by an ensemble, but there is one model to keep and to run.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.verbs import terminal
from fledge.verbs.session import AFTER

if TYPE_CHECKING:
    from fledge.model import Transformer
    from fledge.train.run import Plan, Run
    from fledge.train.training import Result

MOST = 4  # runs that are averaged where the time has room for more (docs/decisions/0026)
LEAST = 0.5  # of the first run's steps, which another one needs to be worth its time


@dataclass(frozen=True)
class Repeat:
    """One run of several from one start: the folder that holds it, and how good it became by itself."""

    folder: str
    steps: int
    validation: dict[str, float]


def repeated(
    run: Run, out: Path, first: Result, ready: float, learn: Callable[[Run, Path, float], Result], many: int | None
) -> list[Result]:  # fmt: skip
    """What the first run came to, and those after it: so `many` in all, or as many as the run's time has room for.

    `learn` trains a run in a folder, given when its command began on the clock of `time.monotonic`, or returns at once what it came to
    before. The first run began `ready` seconds after the command. Each reads on in the order of the rows where the one before ended.
    """
    from fledge.train.run import read_run

    results = [first]
    while len(results) < (many or MOST):
        folder = place_of(out, len(results) + 1)
        begun = read_run(folder / "run")
        plan = begun.plan if begun is not None else plan_after(run.plan, results, ready, many)
        if plan is None:
            break
        results.append(learn(replace(run, plan=plan), folder, clock.monotonic() - results[-1].seconds))
        score = ", ".join(f"{name} {value:.3f}" for name, value in results[-1].validation.items())
        terminal.say(f"  run {len(results)} from the same start, in another order: {score}")
    return results


def place_of(out: Path, number: int) -> Path:
    """The folder of one of the runs, counted from 1."""
    return out if number == 1 else out / "run" / "again" / str(number)


def reserve_of(seconds: float, number: int, many: int | None) -> float:
    """How many of the seconds are kept for what follows the run of this number, of so `many`."""
    after = AFTER * seconds
    return after + (seconds - after) * (1 - number / many if many else 0)


def plan_after(plan: Plan, results: list[Result], ready: float, many: int | None) -> Plan | None:
    """The plan of another run, shorter where the time asks for it; none where nobody asked for it and the time has no room."""
    whole = steps = plan.most or plan.steps
    reserve = plan.reserve
    if plan.seconds is not None:
        reserve = reserve_of(plan.seconds, len(results) + 1, many)
        pace = max(1e-9, results[-1].seconds - ready) / sum(result.steps for result in results)
        steps = min(whole, max(1, int((plan.seconds - reserve - results[-1].seconds) / pace)))
    if many is None and (plan.seconds is None or steps < LEAST * whole):
        return None
    return replace(plan, steps=steps, most=steps, reserve=reserve, revisions=(), skips=((0, len(results) * whole),))


def mean_of(models: Iterable[Transformer]) -> Transformer:
    """The first of the models, with the mean of the weights of all; they are read one after the other."""
    import torch

    several = iter(models)
    mean = next(several)
    with torch.no_grad():
        for number, model in enumerate(several, 2):
            for own, other in zip(mean.parameters(), model.parameters(), strict=True):
                if own.is_floating_point():
                    own.lerp_(other, 1 / number)
    return mean
