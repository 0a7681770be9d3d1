"""What a run costs as it goes: its share of what the machine could multiply, its memory, its time left."""

import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fledge.train.run import Machine, Run

if TYPE_CHECKING:
    from fledge.train.loop import State

SECONDS = 0.1  # of multiplying


@cache
def matrix_rate(machine: Machine) -> float:
    """FLOP per second of matrix products in the machine's dtype, with the threads that torch has; asked again, it answers what it found."""
    return measured_rate(machine)


def measured_rate(machine: Machine) -> float:
    """The best of the products of a tenth of a second: each large enough for the machine, and short enough that others leave one alone."""
    gpu = machine.device.startswith("cuda")
    size = 8192 if gpu else 128 * round(4 * torch.get_num_threads() ** (1 / 3))
    left, right = torch.randn(2, size, size, device=machine.device, dtype=getattr(torch, machine.dtype))
    took, start = [], time.perf_counter()
    while len(took) < 4 or time.perf_counter() - start < SECONDS:
        began = time.perf_counter()
        left @ right
        if gpu:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return 2 * size**3 / min(took)


class Meter:
    """Says of a step, for the speed that it had: `mfu`, `memory` and `peak_memory` of this rank in bytes, `seconds_left` of training.

    Model FLOPs utilisation is the share of the measured `matrix_rate` that the model's own matrix products are, as in Chowdhery et al.,
    2022, arXiv:2204.02311, appendix B: what is computed twice counts once. It is left out where a part of the model stands still.
    """

    def __init__(self, run: Run, model: torch.nn.Module, ranks: int = 1):
        from fledge.train.plan import training_flops

        self.machine, self.ranks, self.rate = run.machine, ranks, matrix_rate(run.machine)
        whole = all(parameter.requires_grad for parameter in model.parameters())
        # tokens of source and target both count, but a part of the model reads either
        self.flops = training_flops(run.arch, run.batch.context) / len(run.arch.stacks) if whole else 0.0

    def facts(self, state: "State", tokens_per_second: float) -> dict[str, float]:
        done = self.flops * tokens_per_second / self.ranks
        if done > self.rate:  # which was measured while others had the machine
            self.rate = max(self.rate, measured_rate(self.machine))
        memory, peak = memory_in_use(torch.device(self.machine.device))
        facts = {"mfu": round(done / self.rate, 4)} if self.flops else {}
        if memory:
            facts |= {"memory": memory, "peak_memory": peak}
        left = (state.total - state.step) * state.tokens / state.step
        return {**facts, "seconds_left": round(left / tokens_per_second, 3)}


def memory_in_use(device: torch.device) -> tuple[int, int]:
    """Bytes now and at most so far: of a GPU what tensors take, else what the process has; 0 where that is not told."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
        return tuple(int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))  # pyrefly: ignore[bad-return]
    except (OSError, KeyError):  # no Linux
        return 0, 0
