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
from fledge.train.objective import PredictTokens
from fledge.train.optimizer import Optimizer
from fledge.train.plan import optimizer_for, this_machine, training_flops
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


def matrix_rate(dtype: torch.dtype, width: int) -> float:
    """FLOP per second of the best of three products as a block of this width has them."""
    a, b = torch.randn(4096, width, dtype=dtype), torch.randn(3 * width, width, dtype=dtype)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        torch.nn.functional.linear(a, b)
        took.append(time.perf_counter() - began)
    return 2 * a.numel() * b.shape[0] / min(took)


def main() -> None:
    options = arguments(__doc__, rounds=8, threads=0)
    here = this_machine(threads=options.threads)
    runs: list[dict[str, Any]] = []
    gains = {}
    for name, (arch, rows, context, muon) in SHAPES.items():
        variants = {
            (dtype, fused): Trained(arch, rows, context, replace(here, dtype=dtype, kernels=fused), muon)
            for dtype in ("float32", "bfloat16")
            for fused in (False, True)[: 1 + kernels.available()]
        }
        rates: dict[str, list[float]] = {"float32": [], "bfloat16": []}
        for _ in range(options.rounds):
            for variant in variants.values():
                variant.step()
            for dtype, found in rates.items():
                found.append(matrix_rate(getattr(torch, dtype), arch.trunk.width))
        medians = {}
        for (dtype, fused), variant in variants.items():
            speeds = sorted(rows * context / seconds for seconds in variant.seconds[1:])
            medians[dtype, fused] = speed = statistics.median(speeds)
            share = speed * training_flops(arch, context) / statistics.median(rates[dtype])
            runs.append(
                {
                    "model": name, "dtype": dtype, "kernels": fused, "tokens_per_second": round(speed),
                    "least": round(speeds[0]), "most": round(speeds[-1]),
                    "share_of_matrix_rate": round(share, 3),
                }
            )  # fmt: skip
        best = max(medians, key=lambda variant: medians[variant])
        gains[name] = round(medians[best] / medians["float32", False], 2)
    measured = "; ".join(f"{name}: {gain} times" for name, gain in gains.items())
    claim = "bf16 and the compiled kernels together train faster than plain fp32 (the better of the four against it)"
    write("kernels", claim, measured, runs, min(gains.values()) > 1, gains=gains)


if __name__ == "__main__":
    main()
