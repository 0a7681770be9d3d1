"""Models that take the same step again and again, for benchmarks of what happens beside it."""

import time

import numpy as np

from fledge.arch import Arch
from fledge.data.batches import Batch
from fledge.model import Transformer, initialise
from fledge.presets import gpt2, qwen3
from fledge.train.loop import State, on_machine, run_steps
from fledge.train.objective import PredictTokens
from fledge.train.optimizer import Optimizer
from fledge.train.plan import optimizer_for
from fledge.train.run import AdamW, Constant, Machine, Plan

SHAPES: dict[str, tuple[Arch, int, int, bool]] = {  # rows, context, and whether by Muon
    "default, 128 wide, 4 deep, Muon": (qwen3(128, 4, vocabulary=2048, context=256), 8, 256, True),
    "default, 384 wide, 6 deep, Muon": (qwen3(384, 6, vocabulary=4096, context=256), 16, 256, True),
    "GPT-2, 384 wide, 6 deep, AdamW": (gpt2(384, 6, vocabulary=256, context=256, dropout=0.0), 16, 256, False),
}


class Trained:
    """One variant: a model that takes the same step again and again."""

    def __init__(self, arch: Arch, rows: int, context: int, machine: Machine, muon: bool):
        drawn = np.random.default_rng(0).integers(arch.vocabulary, size=(rows, context + 1))
        self.batch = Batch(drawn[:, :-1].copy(), drawn[:, 1:].copy())
        model = initialise(Transformer(arch))
        self.state = State(0, Plan(1), model, Optimizer(model, optimizer_for(arch) if muon else AdamW()))
        self.machine = machine
        self.seconds: list[float] = []

    def step(self) -> None:
        with on_machine(self.machine):
            began = time.perf_counter()
            run_steps(self.state, PredictTokens(), lambda step: [self.batch], Constant(), self.machine, [])
            self.seconds.append(time.perf_counter() - began)
        self.state.plan = Plan(self.state.step + 1)
