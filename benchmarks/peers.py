"""Pinned peers in an environment of their own outside the repository, and one short training run of any of them.

python benchmarks/peers.py --folder DIR     makes the environment and fetches nanoGPT; benchmarks then want FLEDGE_PEERS=DIR
"""

import json
import os
import pickle
import re
import statistics
import subprocess
import sys
import threading
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from record import arguments

from fledge.__main__ import TUNABLES

PINNED = (
    "torch==2.13.0", "transformers==5.3.0", "accelerate==1.15.0", "litgpt==0.5.13", "tensorboard==2.21.0", "datasets==5.0.1",
    "tiktoken==0.14.0", "litdata==0.2.61", "peft==0.21.2", "litserve==0.2.19",
)  # fmt: skip
UNWANTED = "torchvision"  # which litdata brings; made for another torch than the CPU's it ends every import of litgpt
NANOGPT = ("https://github.com/karpathy/nanoGPT", "3adf61e154c3fe3fca428ad6bc3818b27a3b8291")
WORKERS = Path(__file__).parent / "workers"


@dataclass(frozen=True)
class Task:
    """GPT-2's shape, which all of them know, and how much of it a step reads, in how many parts; `tokens` is a file of uint16."""

    name: str
    width: int
    depth: int
    heads: int
    context: int
    rows: int
    vocabulary: int
    tokens: Path
    parts: int = 1  # whose gradients are added up
    rank: int = 0  # of an adapter that is trained instead, where it is not 0
    device: str = "cpu"
    family: str = "gpt2"  # or qwen3, the shape that fledge trains by default

    @property
    def step_tokens(self) -> int:
        return self.rows * self.context


@dataclass(frozen=True)
class Took:
    """Seconds of each step, and the most memory in bytes that the process held, or on a GPU its tensors where it says so."""

    seconds: list[float]
    memory: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def folder() -> Path:
    """Where the peers are; ends the benchmark with what to type where they are not."""
    if "FLEDGE_PEERS" not in os.environ:
        raise SystemExit("set FLEDGE_PEERS to the folder of the peers, which python benchmarks/peers.py --folder DIR makes")
    return Path(os.environ["FLEDGE_PEERS"]).resolve()


def python() -> str:
    return str(folder() / "env" / "bin" / "python")


def nanogpt(task: Task, steps: int, scratch: Path) -> tuple[list[str], Path]:
    """Its documented command for a CPU or a GPU, of this shape, and the folder to run it in."""
    data = folder() / "nanoGPT" / "data" / "fledge_benchmark"
    data.mkdir(parents=True, exist_ok=True)
    for name in ("train.bin", "val.bin"):
        (data / name).write_bytes(task.tokens.read_bytes())
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": task.vocabulary}))
    settings = {
        "device": task.device, "compile": task.device != "cpu", "dataset": data.name, "out_dir": str(scratch), "eval_iters": 1,
        "eval_interval": 10**6, "log_interval": 1, "gradient_accumulation_steps": task.parts, "block_size": task.context,
        "batch_size": task.rows // task.parts, "n_layer": task.depth, "n_head": task.heads, "n_embd": task.width,
        "max_iters": steps - 1, "lr_decay_iters": steps, "dropout": 0.0, "bias": True,
    }  # fmt: skip
    return [python(), "train.py", *(f"--{name}={value}" for name, value in settings.items())], folder() / "nanoGPT"


def worker(file: str, interpreter: Callable[[], str], **more: str | bool) -> Callable[[Task, int, Path], tuple[list[str], Path]]:
    """A script that is told its task as JSON."""

    def command(task: Task, steps: int, scratch: Path) -> tuple[list[str], Path]:
        told = {**vars(task), "tokens": str(task.tokens), "steps": steps, **more}
        return [interpreter(), str(WORKERS / file), json.dumps(told)], scratch

    return command


PEERS = {
    "nanoGPT, fp32": nanogpt,
    "transformers, bf16": worker("trainer.py", python, compiled=False),
    "transformers, bf16, compiled": worker("trainer.py", python, compiled=True),
    "litgpt, bf16": worker("lit.py", python),
}
OURS = {
    "fledge, bf16": worker("own.py", lambda: sys.executable, dtype="bfloat16", kernels=True),
    "fledge, fp32": worker("own.py", lambda: sys.executable, dtype="float32", kernels=True),
    "fledge, fp32, without the compiled kernels": worker("own.py", lambda: sys.executable, dtype="float32", kernels=False),
}
SPARING = {
    "fledge, bf16, activations computed again": worker("own.py", lambda: sys.executable, dtype="bfloat16", kernels=True, recompute=True)
}
ADAPTERS = {
    "fledge, adapter, bf16": worker("own.py", lambda: sys.executable, dtype="bfloat16", kernels=True),
    "transformers + peft, bf16": worker("trainer.py", python, compiled=False),
}
ON_GPU = {
    "fledge, bf16, compiled": worker("own.py", lambda: sys.executable, dtype="bfloat16", kernels=True),
    "nanoGPT, bf16, compiled": nanogpt,
    "transformers, bf16": worker("trainer.py", python, compiled=False),
    "transformers, bf16, compiled": worker("trainer.py", python, compiled=True),
    "fledge, bf16": worker("own.py", lambda: sys.executable, dtype="bfloat16", kernels=False),
    "fledge, bf16, compiled, packed documents": worker("own.py", lambda: sys.executable, dtype="bfloat16", kernels=True, packed=True),
    "fledge, bf16, packed documents": worker("own.py", lambda: sys.executable, dtype="bfloat16", kernels=False, packed=True),
}
STEP = re.compile(r"(?:iter \d+: loss .*time |iter time: )([\d.]+) ?ms|^step ([\d.]+) s", re.MULTILINE)
HELD = re.compile(r"^held (\d+) bytes", re.MULTILINE)


def measured(
    contestant: str, task: Task, steps: int, scratch: Path, threads: int, settle: int = 3, patience: float | None = None
) -> Took:  # fmt: skip
    """One run of `steps` steps; the first `settle` are left out. Ends the benchmark where it fails or takes longer than `patience`."""
    contestants = PEERS | OURS | SPARING | ADAPTERS if task.device == "cpu" else ON_GPU  # where "fledge, bf16" is without kernels
    command, place = contestants[contestant](task, steps, scratch)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    if command[0] == sys.executable:
        environment["GLIBC_TUNABLES"] = TUNABLES  # as the command sets it
    with subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        timer = threading.Timer(patience, process.kill) if patience else None
        if timer:
            timer.start()
        said = process.stdout.read()
        if timer:
            timer.cancel()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    found = [float(ms) / 1000 if ms else float(s) for ms, s in STEP.findall(said)]
    if process.returncode or len(found) < steps:
        raise SystemExit(f"{contestant} ended with {process.returncode} after {len(found)} of {steps} steps:\n{said[-3000:]}")
    held = HELD.search(said)
    return Took(found[settle:], int(held[1]) if held else used.ru_maxrss * 1024)


def characters(text: Path, out: Path) -> int:
    """The text as one number a character, in `out`; returns how many there are."""
    whole = text.read_text(encoding="utf-8")
    known = {c: i for i, c in enumerate(sorted(set(whole)))}
    np.array([known[c] for c in whole], np.uint16).tofile(out)
    return len(known)


def main() -> None:
    options = arguments(__doc__, folder="")
    if not options.folder:
        raise SystemExit("say where: --folder DIR")
    place = Path(options.folder)
    venv.create(place / "env", with_pip=True)
    subprocess.run([place / "env/bin/python", "-m", "pip", "install", "-q", *PINNED], check=True)
    subprocess.run([place / "env/bin/python", "-m", "pip", "uninstall", "-q", "-y", UNWANTED], check=True)
    if not (place / "nanoGPT").exists():
        subprocess.run(["git", "clone", "-q", NANOGPT[0], place / "nanoGPT"], check=True)
    subprocess.run(["git", "checkout", "-q", NANOGPT[1]], check=True, cwd=place / "nanoGPT")


if __name__ == "__main__":
    main()
