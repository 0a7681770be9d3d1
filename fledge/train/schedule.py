"""What part of the learning rate a step gets: pure functions of the step and the plan."""

import math

from fledge.train.run import Constant, Cosine, InverseRoot, Plan, Schedule, Stable


def factor(schedule: Schedule, step: int, plan: Plan) -> float:
    """The share of the learning rate for `step` (from 0); later revisions of the plan never change an earlier step.

    >>> [factor(Stable(warmup=2, decay=0.5), step, Plan(8)) for step in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    match schedule:
        case Stable(warmup, decay, final):
            return _warm(step, warmup) * (1 - (1 - final) * _fallen(step, decay, plan))
        case Cosine(warmup, final):
            return _warm(step, warmup) * (final + (1 - final) * (1 + math.cos(math.pi * _fallen(step, 1.0, plan, warmup))) / 2)
        case InverseRoot(warmup):
            return min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))
        case Constant():
            return 1.0


def _warm(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / max(1, warmup))


def _fallen(step: int, decay: float, plan: Plan, earliest: int = 0) -> float:
    """How much of the fall is done at `step`, 0 to 1: straight from its beginning to the last step.

    A revision moves the beginning of a fall that is yet to come; one that is under way goes on from where it is.
    """
    total = plan.steps
    begin, done = max(earliest, total - round(decay * total)), 0.0
    for at, new in plan.revisions:
        if at > step:
            break
        if at > begin:
            done += (1 - done) * min(1.0, (at - begin) / max(1, total - begin))
            begin = at
        else:
            begin = max(at, earliest, new - round(decay * new))
        total = new
    return done + (1 - done) * min(1.0, max(0, step - begin) / max(1, total - begin))
