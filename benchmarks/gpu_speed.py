"""Tokens per second of whole training steps on one GPU: fledge, nanoGPT and transformers on the same shape, batch, context and text.

Beside each stands the share of the GPU's own limit, how fast it multiplies bf16 matrices, measured in the same minutes. fledge runs with
torch's compiler and without, and on rows of several documents, which FlexAttention keeps apart, or a mask tensor where nothing is compiled.
`--only` is a part of a model's name. Who fails, or takes longer than `--patience` seconds with compiling, is told as such.
"""

import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import NANOGPT, ON_GPU, Task, measured
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
    """Each shape with those who train it: the smallest with all; nanoGPT has no other shape than GPT-2's.

    A step reads about 100,000 tokens in four parts, as runs of these sizes do at the least.
    """
    on = {"context": CONTEXT, "tokens": tokens, "device": "cuda", "vocabulary": 50_304, "parts": 4}
    few = (OURS, "nanoGPT, bf16, compiled", "transformers, bf16")
    return [
        (Task("GPT-2 350M", 1024, 24, 16, rows=96, **on), few),
        (Task("default 0.5B", 1280, 24, 20, rows=64, family="qwen3", **on), (few[0], few[2])),
        (Task("GPT-2 124M", 768, 12, 12, rows=128, **on), tuple(ON_GPU)),
    ]


def arch_of(task: Task) -> Arch:
    size = {"vocabulary": task.vocabulary, "context": task.context}
    return gpt2(task.width, task.depth, task.heads, **size) if task.family == "gpt2" else qwen3(task.width, task.depth, **size)


def main() -> None:
    options = arguments(__doc__, steps=16, settle=6, patience=120.0, only="")
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        tokenizer = Tokenizer.load(data_folder() / "tokenizers/gpt2")
        text = (data_folder() / "text/tinyshakespeare.txt").read_text(encoding="utf-8")
        np.array(tokenizer.encode(text), np.uint16).tofile(place / "tokens.bin")
        for task, contestants in tasks(place / "tokens.bin"):
            if options.only in task.name:
                raced(task, contestants, options, place)


def raced(task: Task, contestants: tuple[str, ...], options: Any, place: Path) -> None:
    """One after another, each with its speed and memory; what is known so far is kept after each."""
    rate, flops = measured_rate(Machine("cuda", "bfloat16")), training_flops(arch_of(task), task.context)
    torch.cuda.empty_cache()
    runs: list[dict[str, Any]] = [{"model": task.name, "of": torch.cuda.get_device_name(), "bf16_matrix_rate": round(rate)}]
    for name in contestants:
        began = time.perf_counter()
        try:
            took = measured(name, task, options.steps, place, 8, options.settle, options.patience)
            speed = task.step_tokens / took.median
            runs.append({
                "model": task.name, "of": name, "tokens_per_second": round(speed), "least": round(task.step_tokens / max(took.seconds)),
                "most": round(task.step_tokens / min(took.seconds)), "share_of_matrix_rate": round(speed * flops / rate, 3),
                **({"peak_memory": took.memory} if "nanoGPT" not in name else {}),
            })  # fmt: skip
        except SystemExit as end:
            runs.append({"model": task.name, "of": name, "failed": str(end)})
        print(runs[-1], f"in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        told(task, runs)


def told(task: Task, runs: list[dict[str, Any]]) -> None:
    """Keep the result of one shape."""
    found = {run["of"]: run for run in runs}
    ours, large = found[OURS], "124M" not in task.name
    if "failed" in ours:
        raise SystemExit(ours["failed"])
    others = {name: round(ours["tokens_per_second"] / run["tokens_per_second"], 2) for name, run in found.items()
              if name in ON_GPU and "fledge" not in name and "failed" not in run}  # fmt: skip
    claim = f"training {task.name} at {task.parts} times {task.rows // task.parts} × {task.context} a step in bf16 on one GPU"
    write(
        f"gpu_speed_{task.name.split()[-1].lower().replace('.', '_')}",
        claim + (", at 55 % of its bf16 matrix rate or more" if large else ", faster than nanoGPT and transformers"),
        f"{ours['tokens_per_second']:,} tokens/s, {ours['share_of_matrix_rate']:.0%} of the matrix rate"
        + "".join(f", {times} times {name}" for name, times in others.items()),
        runs,
        ours["share_of_matrix_rate"] >= LEAST if large else min(others.values(), default=0.0) > 1,
        shape={**asdict(task), "tokens": "tinyshakespeare by GPT-2's tokenizer"}, nanogpt=NANOGPT[1],
    )  # fmt: skip


if __name__ == "__main__":
    main()
