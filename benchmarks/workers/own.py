"""fledge's own training loop on GPT-2's or its default shape from random weights; run by the Python that fledge is installed in."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fledge.adapt.low import attach, changes_of, maps_of
from fledge.adapt.settings import Lora
from fledge.data.batches import Batch
from fledge.model import Transformer, initialise
from fledge.presets import gpt2, qwen3
from fledge.train.loop import State, on_machine, run_steps
from fledge.train.objective import PredictTokens
from fledge.train.optimizer import Optimizer
from fledge.train.parallel.engine import put_on
from fledge.train.plan import this_machine
from fledge.train.run import AdamW, Constant, Plan

task = json.loads(sys.argv[1])
tokens = np.fromfile(Path(task["tokens"]), np.uint16).astype(np.int64)


def batch_at(step: int) -> list[Batch]:
    return [part(np.random.default_rng((step, number)), task["rows"] // task["parts"]) for number in range(task["parts"])]


def part(random: np.random.Generator, rows: int) -> Batch:
    starts = random.integers(len(tokens) - task["context"] - 1, size=rows)
    windows = np.stack([tokens[start : start + task["context"] + 1] for start in starts])
    if not task.get("packed"):
        return Batch(windows[:, :-1], windows[:, 1:])
    borders = random.random((rows, task["context"])) < 1 / 200  # documents of 200 tokens on average
    document = borders.cumsum(1)
    places = np.arange(task["context"])
    starts = np.maximum.accumulate(np.where(borders, places, 0), axis=1)
    return Batch(windows[:, :-1], windows[:, 1:], places - starts, document)


began = time.perf_counter()


def clock(state: State) -> None:
    global began
    print(f"step {time.perf_counter() - began:.6f} s", flush=True)
    began = time.perf_counter()


machine = replace(
    this_machine(task["device"]), dtype=task["dtype"], kernels=task["kernels"], recompute=task.get("recompute", False)
)  # fmt: skip
size = {name: task[name] for name in ("width", "depth", "heads", "vocabulary", "context")}
if task["family"] == "gpt2":
    arch = gpt2(dropout=0.0, **size)
else:
    arch = qwen3(dropout=0.0, kv_heads=task["heads"] // 2, head_size=task["width"] // task["heads"], **size)
model = initialise(Transformer(arch))
put_on(model, machine)
if task["rank"]:
    attach(model, changes_of(maps_of(model), Lora(task["rank"], 2.0 * task["rank"])))
with on_machine(machine):
    state = State(0, Plan(task["steps"]), model, Optimizer(model, AdamW(rate=6e-4)))
    run_steps(state, PredictTokens(), batch_at, Constant(), machine, [clock])
if machine.device != "cpu":
    print(f"held {torch.cuda.max_memory_allocated()} bytes")
