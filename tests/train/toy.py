"""A tiny world to train in: models of a few thousand parameters and batches that are a function of the step."""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from fledge.data.batches import Batch as Examples
from fledge.model import Transformer, initialise
from fledge.presets import qwen3
from fledge.train.objective import PredictTokens
from fledge.train.run import AdamW, Batch, Machine, Muon, Plan, Run, Save, Stable
from fledge.train.training import train, validate

VOCABULARY, CONTEXT = 32, 12
OPTIMIZERS = {"adamw": AdamW(rate=1e-2), "muon": Muon(rate=1e-2, adamw_rate=1e-2)}


def rows(count: int, seed: int, masked: float = 0.0) -> Examples:
    """Random tokens in which each next one follows from the one before, some labels masked."""
    random = np.random.default_rng(seed)
    tokens = (np.cumsum(np.full((count, CONTEXT + 1), 5), axis=1) + random.integers(VOCABULARY, size=(count, 1))) % VOCABULARY
    labels = np.where(random.random((count, CONTEXT)) < masked, -100, tokens[:, 1:])
    return Examples(tokens[:, :-1].copy(), labels.copy())


@dataclasses.dataclass(frozen=True)
class Toy:
    """Micro-batches with uneven masks."""

    accumulate: int = 2

    def batch_at(self, step: int, place: int = 0, places: int = 1) -> list[Examples]:
        whole = [rows(3, 1000 * step + part, masked=0.2 + 0.4 * part) for part in range(self.accumulate)]
        return [own for part in whole if (own := part.share(place, places)) is not None]


def a_run(optimizer: str = "adamw", steps: int = 12, dropout: float = 0.2, save_steps: int = 0, **save) -> Run:
    arch = qwen3(width=32, depth=2, head_size=16, mlp=48, vocabulary=VOCABULARY, context=CONTEXT, dropout=dropout)
    return Run(
        arch,
        batch=Batch(3, 2, CONTEXT),
        optimizer=OPTIMIZERS[optimizer],
        schedule=Stable(warmup=2),
        plan=Plan(steps),
        save=Save(steps=save_steps, **save),
        machine=Machine(threads=1),
    )


def go(run: Run, folder: Path, batches=Toy(), objective=PredictTokens(), start=None, **more):  # noqa: B008  (both are values)
    """Train the run in `folder`, from what `start` makes or random weights; returns the model and the result."""
    model = start() if start is not None else initialise(Transformer(run.arch), seed=run.machine.seed)
    held_out = [rows(4, 7), rows(2, 8, masked=0.5)]
    more.setdefault("evaluate", lambda model: validate(model, PredictTokens(), held_out, run.machine))
    more.setdefault("say", lambda sentence: None)
    result = train(run, model, batches, objective, folder, **more)
    return model, result


if __name__ == "__main__":  # a process for tests to stop and to kill: toy.py FOLDER OPTIMIZER STEPS REST
    import time

    from fledge.train.loop import Stopped

    try:
        go(
            a_run(sys.argv[2], int(sys.argv[3]), save_steps=3, evaluate=5),
            Path(sys.argv[1]),
            say=print,
            after_step=[lambda state: time.sleep(float(sys.argv[4]))],
        )
    except Stopped as stopped:
        print(stopped)
        sys.exit(stopped.exit_code)
