"""What a run costs as it goes: its share of what the machine could multiply, its memory, its time left."""

import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fledge.train.run import Machine, Run

if TYPE_CHECKING:
    from fledge.train.loop import State

TRIES = 4


@cache
def matrix_rate(machine: Machine) -> float:
    """FLOP per second of large matrix products in the machine's dtype, with the threads that torch has: the best of a few.

    Takes about a tenth of a second; asked again, it answers what it found.
    """
    gpu = machine.device.startswith("cuda")
    size = 8192 if gpu else 1024
    left, right = torch.randn(2, size, size, device=machine.device, dtype=getattr(torch, machine.dtype))
    took = []
    for _ in range(TRIES):
        began = time.perf_counter()
        left @ right
        if gpu:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return 2 * size**3 / min(took)


class Meter:
    """Says of a step, for the speed that it had: `mfu`, `memory` and `peak_memory` in bytes, `seconds_left` of training.

    Model FLOPs utilisation is the share of the measured `matrix_rate` that the model's own matrix products are, as in Chowdhery et al.,
    2022, arXiv:2204.02311, appendix B: what is computed twice counts once. It is left out where a part of the model stands still.
    """

    def __init__(self, run: Run, model: torch.nn.Module):
        from fledge.train.plan import training_flops

        self.device, self.share = torch.device(run.machine.device), 0.0
        if all(parameter.requires_grad for parameter in model.parameters()):
            # tokens of source and target both count, but a part of the model reads either
            flops = training_flops(run.arch, run.batch.context) / len(run.arch.stacks)
            self.share = flops / matrix_rate(run.machine)

    def facts(self, state: "State", tokens_per_second: float) -> dict[str, float]:
        memory, peak = memory_in_use(self.device)
        facts = {"mfu": round(self.share * tokens_per_second, 4)} if self.share else {}
        if memory:
            facts |= {"memory": memory, "peak_memory": peak}
        left = (state.total - state.step) * state.tokens / state.step
        return {**facts, "seconds_left": round(left / tokens_per_second, 1)}


def memory_in_use(device: torch.device) -> tuple[int, int]:
    """Bytes now and at most so far: of a GPU what tensors take, else what the process has; 0 where that is not told."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
        return tuple(int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))  # pyrefly: ignore[bad-return]
    except (OSError, KeyError):  # no Linux
        return 0, 0
