"""How near the memory that `fledge plan` predicts comes to what a training step takes: three sizes each of two families, on this CPU.

Predicted: two depths traced on tensors without values, extended to the whole depth. Measured, in a process of its own each time: what
PyTorch's CPU allocator has given out at most, by its profiler; and beside it what the operating system has given the process at most, less
what it had before there was a model.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from record import arguments, write

from fledge.arch import Arch, parameter_count
from fledge.model import Transformer, initialise
from fledge.presets import gpt2, modernbert
from fledge.train.loop import State, on_machine, run_steps
from fledge.train.objective import PredictTokens
from fledge.train.optimizer import Optimizer
from fledge.train.parallel.tracing import Layout, sample, traced
from fledge.train.plan import optimizer_for
from fledge.train.run import AdamW, Constant, Machine, Plan

CONTEXT, VOCABULARY = 256, 4096
SIZES = ((256, 4, 4), (384, 6, 4), (512, 8, 1))  # width, depth, rows
FAMILIES = {
    "decoder (GPT-2), AdamW": lambda width, depth: gpt2(width, depth, vocabulary=VOCABULARY, context=CONTEXT),
    "encoder (ModernBERT), Muon": lambda width, depth: modernbert(width, depth, vocabulary=VOCABULARY, context=CONTEXT),
}


def recipe_for(family: str, arch: Arch):
    return AdamW() if "AdamW" in family else optimizer_for(arch)


def steps(family: str, arch: Arch, rows: int, machine: Machine) -> None:
    """A model is made and trained for two steps: the first gives the optimiser its state."""
    model = initialise(Transformer(arch))
    state = State(0, Plan(2), model, Optimizer(model, recipe_for(family, arch)))
    batch = sample(arch, rows, CONTEXT)
    with on_machine(machine):
        run_steps(state, PredictTokens(), lambda step: [batch], Constant(), machine, [])


def allocated(*what: Any) -> int:
    """Bytes that the allocator has given out at most while these steps run."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        steps(*what)
    held = most = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]  # pyrefly: ignore[missing-attribute]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def resident(family: str, arch: Arch, rows: int, machine: Machine) -> int:
    """Bytes that the process has in memory at most while these steps run, less those that it had before."""
    steps(family, FAMILIES[family](64, 2), 1, machine)  # code and tables of the libraries

    def status(name: str) -> int:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines[name].split()[0]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = status("VmRSS")
    steps(family, arch, rows, machine)
    return status("VmHWM") - before


def measured(family: str, size: tuple[int, int, int], dtype: str) -> tuple[int, int]:
    """What is resident, and what is allocated, in a process of its own, which gives memory back at once."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    words = [sys.executable, __file__, "--measure", json.dumps([family, size, dtype])]
    told = subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout.split()
    return int(told[0]), int(told[1])


def main() -> None:
    options = arguments(__doc__, measure="", dtype="bfloat16")
    if options.measure:
        family, (width, depth, rows), dtype = json.loads(options.measure)
        what = family, FAMILIES[family](width, depth), rows, Machine(dtype=dtype, threads=1)
        print(resident(*what), allocated(*what))
        return
    runs: list[dict[str, Any]] = []
    for family, shape in FAMILIES.items():
        for width, depth, rows in SIZES:
            arch = shape(width, depth)
            began = time.perf_counter()
            found = traced(arch, CONTEXT, Layout(rows=rows), recipe_for(family, arch), options.dtype)
            seconds = time.perf_counter() - began
            process, truth = measured(family, (width, depth, rows), options.dtype)
            runs.append(
                {
                    "family": family, "width": width, "depth": depth, "rows": rows, "context": CONTEXT, "dtype": options.dtype,
                    "parameters": parameter_count(arch), "predicted": found.bytes, "parts": found.peak, "allocated": truth,
                    "resident": process, "ratio": round(found.bytes / truth, 4), "ratio_to_resident": round(found.bytes / process, 4),
                    "seconds": round(seconds, 1),
                }
            )  # fmt: skip
            print(runs[-1], file=sys.stderr, flush=True)
    off = [abs(run["ratio"] - 1) for run in runs]
    whole = [abs(run["ratio_to_resident"] - 1) for run in runs]
    write(
        "plan_memory",
        "the planned memory of a training step is within 10 % of what it takes at most, for three sizes of each of two families",
        f"{max(off):.1%} off at most, {sum(off) / len(off):.1%} on average; {max(whole):.1%} off what the process takes in all",
        runs,
        max(off) <= 0.1,
    )


if __name__ == "__main__":
    main()
