"""Tokens per second that one text is written with, and read before: fledge, transformers and llama.cpp, the same weights, in turns.

Beside each stands the share of what memory allows: the bytes of the weights at the speed at which both cores read memory, measured in
the same minutes. `--only gpt2` or `default` takes one of the two shapes; llama.cpp's seconds are those that it tells itself.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from record import arguments, write
from torch import nn

from fledge.arch import Arch, parameter_count
from fledge.formats import Gguf
from fledge.model import Transformer, initialise
from fledge.model.kernels.pages import settle
from fledge.presets import gpt2, qwen3
from fledge.text.tokenizer import Tokenizer
from fledge.weights.folder import save_model

WORKERS = Path(__file__).parent / "workers"
CLAIM = (
    "one text of a {name} model is written in bf16 at 80 % of what memory allows, 3 times as fast as by transformers.generate and "
    "1.3 times as fast as by llama.cpp in the better of its two types of 16 bits; read 3 times as fast as by llama.cpp"
)
SHAPES: dict[str, tuple[str, Arch]] = {
    "gpt2": ("GPT-2 124M", gpt2(768, 12, dropout=0.0)),
    "default": ("default 0.5B", qwen3(1024, 36)),
}


@dataclass(frozen=True)
class Contestant:
    file: str
    model: str
    settings: dict[str, Any]

    @contextmanager
    def asked(self, folder: Path, task: dict[str, Any]) -> Iterator[Callable[[list[int]], dict[str, float]]]:
        """A process that has opened the model and answers prompts with its seconds for a token read and for one written."""
        told = json.dumps({**task, **self.settings, "model": str(folder / self.model)})
        threads = {"OMP_NUM_THREADS": str(task["threads"]), "GOMP_SPINCOUNT": "20000", "OMP_PROC_BIND": "true"}  # as the command sets
        environment = (
            os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(WORKERS.parents[1])} | (threads if self.model == "model" else {})
        )
        command = [sys.executable, str(WORKERS / self.file), told]
        with (
            (folder / "said.txt").open("a") as said,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment) as process,
        ):

            def answer(prompt: list[int]) -> dict[str, float]:
                assert process.stdin is not None
                process.stdin.write(json.dumps(prompt) + "\n")
                process.stdin.flush()
                return json.loads(line())

            def line() -> str:
                assert process.stdout is not None
                if not (found := process.stdout.readline()):
                    raise SystemExit(f"{command[1]} ended:\n{(folder / 'said.txt').read_text()[-3000:]}")
                return found

            assert line() == "ready\n"
            yield answer
            process.kill()


def writer(by: str, dtype: str) -> Contestant:
    return Contestant("writes.py", "model", {"by": by, "dtype": dtype})


CONTESTANTS = {
    "fledge, bf16": writer("fledge", "bfloat16"),
    "fledge, fp32": writer("fledge", "float32"),
    "fledge, int8": writer("fledge", "int8"),
    "transformers, bf16": writer("transformers", "bfloat16"),
    "transformers, fp32": writer("transformers", "float32"),
    "llama.cpp, BF16": Contestant("llama.py", "bf16.gguf", {}),
    "llama.cpp, F16": Contestant("llama.py", "f16.gguf", {}),
    "llama.cpp, Q8_0": Contestant("llama.py", "q8_0.gguf", {}),
}


def prepare(arch: Arch, folder: Path, seed: int = 0) -> None:
    """A model folder of random weights and the files of llama.cpp."""
    tokenizer, model = Tokenizer.bytes(), initialise(Transformer(arch), seed)
    save_model(folder / "model", model, tokenizer, None, {}, None, "# Random weights\n")
    for kind in ("bf16", "f16", "q8_0"):
        Gguf(model, tokenizer, {}, {}, kind).write(folder / f"{kind}.gguf")


def bandwidth(memory: torch.Tensor, times: int = 5) -> float:
    """Bytes per second that all threads together read from memory in large pages: the fastest of a few passes."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        memory.sum()
        took.append(time.perf_counter() - began)
    return memory.nbytes / min(took)


def main() -> None:
    options = arguments(__doc__, rounds=3, threads=2, read=256, new=48, only="")
    torch.set_num_threads(options.threads)
    block = nn.Parameter(torch.ones(2**27))
    settle([block])
    for short, (name, arch) in SHAPES.items():
        if options.only in short:
            with tempfile.TemporaryDirectory() as scratch:
                of_shape(short, name, arch, options, block.detach(), Path(scratch))


def of_shape(short: str, name: str, arch: Arch, options: Any, memory: torch.Tensor, folder: Path) -> None:
    task = {"threads": options.threads, "read": options.read, "new": options.new}
    prepare(arch, folder)
    found: dict[str, list[dict[str, float]]] = {who: [] for who in CONTESTANTS}
    limits: list[float] = []
    with ExitStack() as stack:
        ask = {who: stack.enter_context(contestant.asked(folder, task)) for who, contestant in CONTESTANTS.items()}
        for turn in range(options.rounds + 1):  # the first is not counted
            limits.append(bandwidth(memory))
            for who, answer in ask.items():
                prompt = random.Random(turn).choices(range(256), k=options.read)
                found[who].append(answer(prompt))
    limit = statistics.median(limits)
    weights = parameter_count(arch) - (arch.context * arch.trunk.width if arch.trunk.positions else 0)  # of positions one row is read
    table = arch.vocabulary * arch.embedding_width  # which our int8 leaves in bf16; a scale of 16 bits for 32 numbers in theirs
    sizes = {"fp32": 4 * weights, **dict.fromkeys(("bf16", "BF16", "F16"), 2 * weights), "int8": weights + table, "Q8_0": weights * 34 / 32}
    runs: list[dict[str, Any]] = []
    speed: dict[str, dict[str, float]] = {}
    for who, several in found.items():
        seconds = {what: [one[what] for one in several[1:]] for what in ("read", "write")}
        speed[who] = {what: 1 / statistics.median(took) for what, took in seconds.items()}
        allowed = limit / sizes[who.split(", ")[1]]
        runs.append({
            "model": name, "of": who, "written_per_second": round(speed[who]["write"], 1),
            "least": round(1 / max(seconds["write"]), 1), "most": round(1 / min(seconds["write"]), 1),
            "share_of_bandwidth": round(speed[who]["write"] / allowed, 3), "read_per_second": round(speed[who]["read"]),
        })  # fmt: skip
        print(
            f"{name:14} {who:20} {speed[who]['write']:7.1f} written/s {speed[who]['write'] / allowed:6.0%} {speed[who]['read']:7.0f} read/s"
        )
    runs.append(
        {"model": name, "of": "the machine", "bytes_per_second": round(limit), "least": round(min(limits)), "most": round(max(limits))}
    )
    ours, llama = speed["fledge, bf16"], [speed[f"llama.cpp, {kind}"] for kind in ("BF16", "F16")]
    gains = {
        "of the bandwidth": ours["write"] * weights * 2 / limit,
        "times transformers": ours["write"] / speed["transformers, bf16"]["write"],
        "times llama.cpp": ours["write"] / max(one["write"] for one in llama),
        "times llama.cpp in reading": ours["read"] / max(one["read"] for one in llama),
        "times transformers in fp32": speed["fledge, fp32"]["write"] / speed["transformers, fp32"]["write"],
        "in int8 times our bf16": speed["fledge, int8"]["write"] / ours["write"],
        "in int8 times llama.cpp in Q8_0": speed["fledge, int8"]["write"] / speed["llama.cpp, Q8_0"]["write"],
    }
    gains = {what: round(gain, 2) for what, gain in gains.items()}
    least = {"of the bandwidth": 0.8, "times transformers": 3, "times llama.cpp": 1.3, "times llama.cpp in reading": 3}
    reached = all(gains[what] >= limit for what, limit in least.items())
    measured = ", ".join(f"{what} {gain}" for what, gain in gains.items())
    write(f"decode_speed_{short}", CLAIM.format(name=name), measured, runs, reached, parameters=parameter_count(arch), gains=gains)


if __name__ == "__main__":
    main()
