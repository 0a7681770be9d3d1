"""A search over learning rates and epochs within a time: short runs of each rate, longer ones of the better, the rest for the best."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.verbs import terminal

if TYPE_CHECKING:
    from fledge.train.run import Run
    from fledge.train.training import Result

FACTORS = (1 / 3, 1.0, 3.0)
"""Of the learning rate, those that are tried."""
ROUNDS = ((3, 1 / 4), (2, 1 / 4))
"""How many rates a round tries, and the share of all steps that it takes: half is left for the best one (successive halving,
Jamieson and Talwalkar, 2016, arXiv:1502.07943)."""
FEWEST = 24  # steps of a search


@dataclass(frozen=True)
class Trial:
    """One run of a search, in its `folder`: what the learning rate was multiplied by, how often each row was seen, how good it became."""

    factor: float
    epochs: float
    validation: dict[str, float]
    folder: str


def searched(
    run: Run, out: Path, per_epoch: int, learn: Callable[[Run, Path], Result], badness: Callable[[Mapping[str, float]], float]
) -> tuple[Run, list[Trial]]:
    """The run with the best of the rates and the steps that are left for it, and the trials that found it, the best first.

    `run` has all steps that the time allows; `learn` trains one run in a folder, or returns at once what it came to before. What the
    search divides stands in `run/search/plan.json`, so that one that was cut off goes on.
    """
    place = out / "run" / "search"
    plan = place / "plan.json"
    if plan.is_file():
        steps = json.loads(plan.read_text(encoding="utf-8"))["steps"]
    else:
        steps = run.plan.steps
        if steps < FEWEST:
            raise ValueError(f"the time suffices for {steps} steps, but a search needs {FEWEST}: give it a longer --time, or leave it out")
        place.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps({"steps": steps}), encoding="utf-8")
    factors, trials = list(FACTORS), list[Trial]()
    for number, (many, share) in enumerate(ROUNDS, 1):
        each = max(1, int(share * steps / many))
        for factor in factors[:many]:
            folder = place / f"{number}-rate-{factor:.3g}"
            found = learn(tried(run, factor, each), folder)
            trials.append(Trial(factor, each / per_epoch, found.validation, str(folder)))
            score = ", ".join(f"{name} {value:.3f}" for name, value in found.validation.items())
            terminal.say(f"  rate × {factor:.3g}, {each / per_epoch:.1f} epochs: {score}")
        latest = sorted(trials[-len(factors[:many]) :], key=lambda trial: badness(trial.validation))
        factors = [trial.factor for trial in latest]
    left = steps - sum(int(share * steps) for _, share in ROUNDS)
    chosen = tried(run, factors[0], left)
    return replace(chosen, plan=replace(run.plan, steps=left)), sorted(trials, key=lambda trial: badness(trial.validation))


def tried(run: Run, factor: float, steps: int) -> Run:
    """The run at a multiple of its learning rate for so many steps."""
    from fledge.train.plan import at_rate
    from fledge.train.run import Plan, Stable

    schedule = run.schedule
    if isinstance(schedule, Stable):
        schedule = replace(schedule, warmup=min(schedule.warmup, steps // 5))
    return replace(run, optimizer=at_rate(run.optimizer, factor), schedule=schedule, plan=Plan(steps))
