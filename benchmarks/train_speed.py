"""Tokens per second of whole training steps: fp32 and bf16, with the compiled kernels and without, in turns on the same batch.

Beside each stands the share of this machine's own limit: how fast it multiplies matrices of that type, measured in the same minute.
"""

import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from record import arguments, write

from fledge.arch import Arch
from fledge.data.batches import Batch
from fledge.model import Transformer, initialise, kernels
from fledge.presets import gpt2, qwen3
from fledge.train.loop import State, on_machine, run_steps
from fledge.train.objective import NextWord
from fledge.train.optimizer import Optimizer
from fledge.train.plan import optimizer_for, this_machine, training_flops
from fledge.train.run import AdamW, Constant, Machine, Plan

SHAPES: dict[str, tuple[Arch, int, int]] = {
    "default, 192 wide, 4 deep": (qwen3(192, 4, vocabulary=2048, context=256), 16, 128),
    "default, 384 wide, 6 deep": (qwen3(384, 6, vocabulary=4096, context=256), 16, 256),
    "GPT-2, 384 wide, 6 deep": (gpt2(384, 6, vocabulary=256, context=256, dropout=0.0), 16, 256),
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
            run_steps(self.state, NextWord(), lambda step: [self.batch], Constant(), self.machine, [])
            self.seconds.append(time.perf_counter() - began)
        self.state.plan = Plan(self.state.step + 1)


def matrix_rate(dtype: torch.dtype, width: int, seconds: float = 1.0) -> float:
    """FLOP per second of products as a block of this width has them."""
    a, b = torch.randn(4096, width, dtype=dtype), torch.randn(3 * width, width, dtype=dtype)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        torch.nn.functional.linear(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * a.numel() * b.shape[0] / best


def main() -> None:
    options = arguments(__doc__, rounds=15, threads=0)
    here = this_machine(threads=options.threads)
    runs: list[dict[str, Any]] = []
    for name, (arch, rows, context) in SHAPES.items():
        for muon in (True, False):
            variants = {
                f"{dtype}, {'kernels' if fused else 'plain'}": Trained(arch, rows, context, replace(here, dtype=dtype, kernels=fused), muon)
                for dtype in ("float32", "bfloat16")
                for fused in (False, True)[: 1 + kernels.available()]
            }
            for _ in range(options.rounds):
                for variant in variants.values():
                    variant.step()
            rates = {"float32": matrix_rate(torch.float32, arch.trunk.width), "bfloat16": matrix_rate(torch.bfloat16, arch.trunk.width)}
            for label, variant in variants.items():
                speeds = sorted(rows * context / seconds for seconds in variant.seconds[2:])
                flops = training_flops(arch, context)
                runs.append(
                    {
                        "model": name, "optimizer": "Muon" if muon else "AdamW", "variant": label,
                        "tokens_per_second": round(statistics.median(speeds)), "least": round(speeds[0]), "most": round(speeds[-1]),
                        "share_of_matrix_rate": round(statistics.median(speeds) * flops / rates[label.split(",")[0]], 3),
                    }
                )  # fmt: skip
    medians = {(run["model"], run["optimizer"], run["variant"]): run["tokens_per_second"] for run in runs}
    gains = {
        f"{name}, {optimizer}": round(medians[name, optimizer, "bfloat16, kernels"] / medians[name, optimizer, "float32, plain"], 2)
        for name, optimizer, variant in medians
        if variant == "bfloat16, kernels"
    }
    write("train_speed", "bf16 and the compiled kernels together train faster than plain fp32", runs, min(gains.values()) > 1, gains=gains)


if __name__ == "__main__":
    main()
