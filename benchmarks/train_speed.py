"""Tokens per second of whole training steps: fledge, nanoGPT, transformers and litgpt on the same shape, text and threads, in turns.

Beside each stands the share of this machine's own limit, how fast it multiplies matrices, measured in the same minutes; and the speed
at which the matrix products of the model run alone.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peers import OURS, PEERS, PINNED, SPARING, Task, Took, characters, measured
from record import arguments, data_folder, write

from fledge.arch.anatomy import parameter_count
from fledge.presets import gpt2
from fledge.train.meter import measured_rate
from fledge.train.plan import training_flops
from fledge.train.run import Machine


@dataclass(frozen=True)
class Claim:
    """What shall be reached on one shape: a gain of at least, or at most, so much for each that is named; `file` keeps it."""

    file: str
    sentence: str
    task: Task
    least: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)

    def holds(self, gain: dict[str, float]) -> bool:
        """Whether all of it was reached; not where the peers did not run."""
        return all(gain.get(name, 0) >= limit for name, limit in self.least.items()) and all(
            gain.get(name, math.inf) <= limit for name, limit in self.most.items()
        )


def claims(letters: int, tokens: Path) -> list[Claim]:
    both = {"times the best other": 1.4, "fp32 times nanoGPT": 1.3}
    return [
        Claim(
            "train_speed_characters",
            "training on characters, 6 layers of 384 at 16 × 256: 2.5 times nanoGPT's speed in fp32 and 1.4 times the best other "
            "peer's, 70 % of that of its matrix products alone; 1.3 times nanoGPT's in fp32 too",
            Task("6 × 384", 384, 6, 6, 256, 16, letters, tokens),
            {"times nanoGPT": 2.5, "of the products alone": 0.7, **both},
        ),
        Claim(
            "train_speed_124m",
            "training GPT-2 124M at 2 × 512: 3.5 times nanoGPT's speed in fp32 and 1.4 times the best other peer's, 45 % of the bf16 "
            "matrix rate; 1.3 times nanoGPT's in fp32 too; at most 40 % of its memory above weights, gradients and moments, where "
            "activations are computed again",
            Task("GPT-2 124M", 768, 12, 12, 512, 2, 50_304, tokens),
            {"times nanoGPT": 3.5, "of the matrix rate": 0.45, **both},
            {"of its memory above weights, gradients and moments, computed again": 0.4},
        ),
        Claim(
            "train_speed_124m_memory",
            "training GPT-2 124M at 8 × 512 takes at most 60 % of nanoGPT's memory",
            Task("GPT-2 124M, 8 rows", 768, 12, 12, 512, 8, 50_304, tokens),
            most={"of nanoGPT's memory": 0.6},
        ),
    ]


def products(task: Task) -> Iterator[tuple[int, int, int, int]]:
    """The forward matrix products of a step as (how often, rows, inner, columns): the blocks' layers and the words' scores."""
    tokens, width = task.step_tokens, task.width
    yield from ((task.depth, tokens, width, 3 * width), (task.depth, tokens, width, width))
    yield from ((task.depth, tokens, width, 4 * width), (task.depth, tokens, 4 * width, width))
    yield 1, tokens, width, task.vocabulary


def alone(task: Task, dtype: torch.dtype) -> float:
    """Seconds that a step's products take by themselves: each forward one and its two of the gradients, and attention's."""
    seconds = 0.0
    for often, rows, inner, columns in products(task):
        x, w, y = (torch.randn(shape, dtype=dtype) for shape in ((rows, inner), (columns, inner), (rows, columns)))
        seconds += often * sum(fastest(product) for product in (lambda: x @ w.T, lambda: y @ w, lambda: y.T @ x))  # noqa: B023
    heads, size = task.rows * task.heads, task.width // task.heads
    q, scores = torch.randn(heads, task.context, size, dtype=dtype), torch.randn(heads, task.context, task.context, dtype=dtype)
    half = 0.5  # a query sees half of the keys on average
    return seconds + half * task.depth * 3 * (fastest(lambda: q @ q.mT) + fastest(lambda: scores @ q))


def fastest(product: Any, times: int = 3) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        product()
        took.append(time.perf_counter() - began)
    return min(took)


def bandwidth() -> float:
    """Bytes per second read and written by a copy far larger than any cache."""
    a = torch.randn(2**26)
    b = torch.empty_like(a)
    return 2 * a.nbytes / fastest(lambda: b.copy_(a), 5)


def main() -> None:
    options = arguments(__doc__, rounds=2, steps=10, threads=2, only="", peers=1)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        letters = characters(data_folder() / "text/tinyshakespeare.txt", place / "characters.bin")
        for claim in claims(letters, place / "characters.bin"):
            if options.only in claim.file:
                rounds, steps = (1, 5) if claim.task.rows == 8 else (options.rounds, options.steps)  # the last is there for its memory
                runs, gain = of_task(claim.task, rounds, steps, options, place)
                short = ", ".join(f"{what} {value}" for what, value in gain.items())
                write(claim.file, claim.sentence, short, runs, claim.holds(gain), peers_pinned=PINNED, gains=gain)


def of_task(task: Task, rounds: int, steps: int, options: Any, place: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """All contestants in turns, each with its speed and memory, and what fledge gains on them."""
    runs: list[dict[str, Any]] = []
    contestants = [*OURS, *SPARING, *(PEERS if options.peers else {})]
    took: dict[str, list[Took]] = {name: [] for name in contestants}
    limits = []
    for _ in range(rounds):
        for name in contestants:
            took[name].append(measured(name, task, steps, place, options.threads))
        rates = [measured_rate(Machine(dtype=dtype, threads=options.threads)) for dtype in ("bfloat16", "float32")]
        limits.append((*rates, alone(task, torch.bfloat16), bandwidth()))
    rate, rate32, products_alone, memory_rate = (statistics.median(column) for column in zip(*limits, strict=True))
    arch = gpt2(task.width, task.depth, task.heads, task.vocabulary, task.context)
    flops = training_flops(arch, task.context)
    speed = {}
    for name, several in took.items():
        seconds = [second for one in several for second in one.seconds]
        speed[name] = task.step_tokens / statistics.median(seconds)
        own = rate32 if "fp32" in name else rate
        runs.append({
            "model": task.name, "of": name, "tokens_per_second": round(speed[name]),
            "least": round(task.step_tokens / max(seconds)), "most": round(task.step_tokens / min(seconds)),
            "share_of_matrix_rate": round(speed[name] * flops / own, 3), "peak_memory": statistics.median(one.memory for one in several),
        })  # fmt: skip
    runs.append({
        "model": task.name, "of": "the machine", "bf16_matrix_rate": round(rate), "fp32_matrix_rate": round(rate32),
        "bytes_per_second": round(memory_rate), "tokens_per_second_of_the_products_alone": round(task.step_tokens / products_alone),
    })  # fmt: skip
    ours, plain, simple = (speed[name] for name in OURS)
    memory = {name: statistics.median(one.memory for one in several) for name, several in took.items()}
    gain = {
        "of the products alone": round(ours * products_alone / task.step_tokens, 2), "of the matrix rate": round(ours * flops / rate, 2),
        "fp32 by the kernels": round(plain / simple, 2),
    }  # fmt: skip
    if options.peers:
        nano, *others = PEERS
        kept = 16 * parameter_count(arch)  # weights, gradients and two moments in fp32
        above = {name: (one - kept) / (memory[nano] - kept) for name, one in memory.items()}
        (own, *_), (sparing,) = OURS, SPARING
        gain |= {
            "times nanoGPT": round(ours / speed[nano], 2), "times the best other": round(ours / max(speed[name] for name in others), 2),
            "fp32 times nanoGPT": round(plain / speed[nano], 2), "of nanoGPT's memory": round(memory[own] / memory[nano], 2),
            "of its memory above weights, gradients and moments": round(above[own], 2),
            "of its memory above weights, gradients and moments, computed again": round(above[sparing], 2),
        }  # fmt: skip
    return runs, gain


if __name__ == "__main__":
    main()
