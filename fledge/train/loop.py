"""The loop: one step after another, a loss that is a sum with its count, one list of hooks, and a way to stop."""

import ctypes
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from fledge.data.batches import Batch, draw
from fledge.model import Transformer, kernels
from fledge.train.objective import Objective
from fledge.train.optimizer import Optimizer
from fledge.train.run import Machine, Plan, Schedule
from fledge.train.schedule import factor

BatchAt = Callable[[int], list[Batch]]


@dataclass
class State:
    """Where training stands: `step` steps are done; the rest tells of the last of them.

    `loss` is the mean in nats over what it counted, `told` the means of what the objective measures besides, `norm` the gradient's before
    clipping, `tokens` all tokens read so far, `seconds` all wall time. A hook may set `stop` to a sentence (training ends after this
    step) or put a revised `plan`.
    """

    step: int
    plan: Plan
    model: Transformer
    optimizer: Optimizer
    tokens: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    norm: float = math.nan
    rate: float = 0.0
    stop: str = ""
    told: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.plan.total(self.step)


Hook = Callable[[State], None]


def run_steps(
    state: State,
    objective: Objective,
    batch_at: BatchAt,
    schedule: Schedule,
    machine: Machine,
    after_step: Sequence[Hook],
) -> State:
    """Train from `state.step` to the end of its plan, calling each of `after_step` after each step.

    Raises `NotFinite` for a loss or gradient that is not; weights, optimiser and `state.step` are then those before the step.
    """
    model, optimizer, spread = state.model, state.optimizer, state.optimizer.spread
    place, places = spread.data
    model.train()
    while state.step < state.total and not state.stop:
        step = state.step
        state.rate = optimizer.set_rates(factor(schedule, step, state.plan))
        parts = batch_at(state.plan.batch(step))
        # labels are data: known before any forward
        total, read = spread.sums(sum(objective.count(part) for part in parts), sum(part.size for part in parts))
        if not total:
            raise ValueError(f"step {step} has no token to train on: every label is masked, so use longer contexts or other data")
        losses = []
        for i, part in enumerate(parts):
            spread.alive("training", step)
            torch.manual_seed(dropout_seed(machine.seed, step, i * places + place))
            with precision(machine):
                loss = objective(model, part) / total
            loss.backward()
            losses.append(loss.detach())
        spread.alive("waiting", step)
        optimizer.collect()
        *found, norm = torch.stack([*spread.summed(torch.stack(losses)), optimizer.norm()]).tolist()
        spread.alive("training", step)
        refuse_if_not_finite(state, found, norm)
        state.loss, state.norm = math.fsum(found), norm
        told = objective.told()
        state.told = {name: value / total for name, value in zip(told, spread.sums(*told.values()), strict=True)} if told else {}
        with precision(machine):
            optimizer.step(state.norm)
        optimizer.zero_grad()
        state.step += 1
        state.tokens += int(read)
        for act in after_step:
            act(state)
        if not model.training:
            model.train()
    return state


def dropout_seed(seed: int, step: int, part: int) -> int:
    """A seed of its own for each micro-batch, so that a resumed run drops the same units."""
    return int(draw(seed, step, part, "dropout").integers(2**63))


def precision(machine: Machine):
    """Matrix products in the machine's dtype, sums and weights in fp32.

    Each weight is cast once in a forward pass, so that keeping the casts for another use would only hold memory.
    """
    kind = torch.device(machine.device).type
    return torch.autocast(kind, torch.bfloat16, cache_enabled=False) if machine.dtype == "bfloat16" else nullcontext()


class NotFinite(FloatingPointError):
    """A loss or gradient that is NaN or infinite and has reached nothing; `found` names its step and tensor."""

    def __init__(self, found: str, advice: str):
        super().__init__(f"{found}. {advice}")
        self.found = found


def refuse_if_not_finite(state: State, losses: Sequence[float], norm: float) -> None:
    """Raise `NotFinite`, with all gradients gone, if the loss of a micro-batch is not finite, or the norm of the gradients."""
    wrong = [f"the loss of micro-batch {i + 1} of {len(losses)} is {loss}" for i, loss in enumerate(losses) if not math.isfinite(loss)]
    if not wrong and math.isfinite(norm):
        return
    gradients = state.optimizer.gradients()
    here = (name for name, _ in state.model.named_parameters() if name in gradients and not gradients[name].isfinite().all())
    if (name := state.optimizer.spread.first_said(next(here, None))) is not None:
        wrong.append(f"the gradient of {name} is not finite")
    state.optimizer.zero_grad()
    raise NotFinite(
        f"step {state.step}: {', '.join(wrong) or f'the norm of all gradients is {norm}'}",
        f"The weights are still those before it. Use a lower rate (now {state.rate:.2g}) or a longer warm-up, look at batch "
        f"{state.plan.batch(state.step)} of the data, or go on without such batches: --set guard.not_finite=skip",
    )


class Stopped(Exception):
    """A signal ended the run after it was saved; `exit_code` is the shell's 128 + signal."""

    def __init__(self, sentence: str, signal_number: int):
        super().__init__(sentence)
        self.exit_code = 128 + signal_number


@contextmanager
def signals_held() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted in the list instead of ending the process; a second one ends it at once."""
    noted: list[int] = []

    def note(number: int, frame) -> None:
        if noted:
            os._exit(128 + number)
        noted.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, which alone may handle signals
        before = {}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@cache
def keep_memory() -> None:
    """What a step frees stays with the process, whatever its size: given back, it would come again as pages to be cleared.

    glibc's own limits (`man mallopt`) are 32 MB for a block; other systems' allocators are left as they are.
    """
    trim_threshold, mmap_threshold, most = -1, -3, 2**31 - 1
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, most)
        mallopt(trim_threshold, most)


def deterministic(strict: bool) -> None:
    """Whether the same bits come out twice; torch is told only what changes, as its answer loads the compiler for a second."""
    if strict != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(strict)


@contextmanager
def on_machine(machine: Machine) -> Iterator[None]:
    """Threads and determinism as the machine says; torch's settings and random state come back afterwards."""
    keep_memory()
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fills: Any = torch.utils.deterministic  # a module with a property, which checkers do not see
    filling = fills.fill_uninitialized_memory
    devices = [torch.device(machine.device)] if torch.device(machine.device).type == "cuda" else []
    with torch.random.fork_rng(devices), kernels.used(machine.kernels, machine.device):
        torch.set_num_threads(machine.threads or threads)
        deterministic(machine.deterministic)
        fills.fill_uninitialized_memory = False  # that finds faults, for a pass over all new memory
        if machine.deterministic and devices:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # pytorch.org/docs/stable/notes/randomness.html
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            deterministic(strict)
            fills.fill_uninitialized_memory = filling
