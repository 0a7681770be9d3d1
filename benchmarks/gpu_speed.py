"""Tokens per second of whole training steps on one GPU: fledge, nanoGPT and transformers on the same shape, batch, context and text.

Beside each stands the share of the GPU's own limit, how fast it multiplies bf16 matrices, measured in the same minutes. fledge runs with
torch's compiler and without, and on rows of several documents, which FlexAttention keeps apart, or a mask tensor where nothing is compiled.
`--only` is a part of a model's name. Who fails, or takes longer than `--patience` seconds with compiling, is told as such.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import NANOGPT, ON_GPU, Task, Took, measured
from record import arguments, data_folder, write

from fledge.arch import Arch
from fledge.presets import gpt2, qwen3
from fledge.text.tokenizer import Tokenizer
from fledge.train.meter import measured_rate
from fledge.train.plan import training_flops
from fledge.train.run import Machine

CONTEXT, LEAST = 1024, 0.55  # tokens of a row; the share of the matrix rate to reach from 350M on
OURS, *_ = ON_GPU


def tasks(tokens: Path) -> list[tuple[Task, tuple[str, ...]]]:
    """Each shape with those who train it: the first with all; nanoGPT has no other shape than GPT-2's."""
    on = {"context": CONTEXT, "tokens": tokens, "device": "cuda", "vocabulary": 50_304}
    few = tuple(name for name in ON_GPU if name in (OURS, "nanoGPT, bf16, compiled", "transformers, bf16"))
    return [
        (Task("GPT-2 350M", 1024, 24, 16, rows=24, **on), tuple(ON_GPU)),
        (Task("GPT-2 124M", 768, 12, 12, rows=32, **on), few),
        (Task("default 0.5B", 1280, 24, 20, rows=16, family="qwen3", **on), (few[0], few[2])),
    ]


def arch_of(task: Task) -> Arch:
    size = {"vocabulary": task.vocabulary, "context": task.context}
    return gpt2(task.width, task.depth, task.heads, **size) if task.family == "gpt2" else qwen3(task.width, task.depth, **size)


def main() -> None:
    options = arguments(__doc__, rounds=1, steps=25, settle=8, patience=150.0, only="")
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        tokenizer = Tokenizer.load(data_folder() / "tokenizers/gpt2")
        text = (data_folder() / "text/tinyshakespeare.txt").read_text(encoding="utf-8")
        np.array(tokenizer.encode(text), np.uint16).tofile(place / "tokens.bin")
        for task, contestants in tasks(place / "tokens.bin"):
            if options.only in task.name:
                told(task, of_task(task, contestants, options, place))


def of_task(task: Task, contestants: tuple[str, ...], options: Any, place: Path) -> list[dict[str, Any]]:
    """All contestants in turns, each with its speed and memory, and the GPU."""
    took: dict[str, list[Took]] = {name: [] for name in contestants}
    failed: dict[str, str] = {}
    for _ in range(options.rounds):
        for name in took:
            began = time.perf_counter()
            try:
                took[name].append(measured(name, task, options.steps, place, 8, options.settle, options.patience))
                print(task.name, name, took[name][-1].median, round(time.perf_counter() - began), file=sys.stderr, flush=True)
            except SystemExit as end:
                failed[name] = str(end)
                print(end, file=sys.stderr, flush=True)
    rate, flops = measured_rate(Machine("cuda", "bfloat16")), training_flops(arch_of(task), task.context)
    runs: list[dict[str, Any]] = []
    for name, several in took.items():
        if not several:
            runs.append({"model": task.name, "of": name, "failed": failed[name]})
            continue
        seconds = [second for one in several for second in one.seconds]
        speed = task.step_tokens / statistics.median(seconds)
        runs.append({
            "model": task.name, "of": name, "tokens_per_second": round(speed), "least": round(task.step_tokens / max(seconds)),
            "most": round(task.step_tokens / min(seconds)), "share_of_matrix_rate": round(speed * flops / rate, 3),
            **({"peak_memory": several[0].memory} if "nanoGPT" not in name else {}),
        })  # fmt: skip
    return [*runs, {"model": task.name, "of": torch.cuda.get_device_name(), "bf16_matrix_rate": round(rate)}]


def told(task: Task, runs: list[dict[str, Any]]) -> None:
    """Keep the result of one shape."""
    found = {run["of"]: run for run in runs}
    ours, large = found[OURS], "124M" not in task.name
    others = {name: round(ours["tokens_per_second"] / run["tokens_per_second"], 2) for name, run in found.items()
              if name in ON_GPU and "fledge" not in name and "failed" not in run}  # fmt: skip
    claim = f"training {task.name} at {task.rows} × {task.context} in bf16 on one GPU"
    write(
        f"gpu_speed_{task.name.split()[-1].lower()}",
        claim + (", at 55 % of its bf16 matrix rate or more" if large else ", faster than nanoGPT and transformers"),
        f"{ours['tokens_per_second']:,} tokens/s, {ours['share_of_matrix_rate']:.0%} of the matrix rate; "
        + ", ".join(f"{times} times {name}" for name, times in others.items()),
        runs,
        ours["share_of_matrix_rate"] >= LEAST if large else min(others.values()) > 1,
        shape={**asdict(task), "tokens": "tinyshakespeare by GPT-2's tokenizer"}, nanogpt=NANOGPT[1],
    )  # fmt: skip


if __name__ == "__main__":
    main()
