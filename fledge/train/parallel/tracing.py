"""A training step on tensors without values: the real model, objective, backward pass and optimiser, on as many ranks as one likes."""

import gc
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fledge.arch import Arch, Words
from fledge.data.batches import IGNORED, Batch, Source
from fledge.model import Transformer, shell
from fledge.train.loop import State, run_steps
from fledge.train.objective import PredictTokens
from fledge.train.optimizer import Muon as OurMuon
from fledge.train.optimizer import Optimizer
from fledge.train.parallel.engine import materialise, mesh_of, recompute, spread_out
from fledge.train.parallel.ledger import KINDS, Kind, Ledger
from fledge.train.run import AdamW, Constant, Machine, Muon, Plan

aten = torch.ops.aten
TRAINED = 0.15  # of the words, where an encoder learns from hidden ones
ONCE = "optimizer"  # the part of a step that does not come again with each micro-batch


@dataclass(frozen=True)
class Layout:
    """How a step lies on ranks: `data` groups with rows of their own, `tensor` ranks to each layer, `rows` at a time, `accumulate` times.

    With `recompute` a block keeps its input alone for the backward pass.
    """

    data: int = 1
    tensor: int = 1
    rows: int = 1
    accumulate: int = 1
    recompute: bool = False

    @property
    def ranks(self) -> int:
        return self.data * self.tensor


Way = tuple[str, int, int]


@dataclass(frozen=True)
class Trace:
    """What one rank holds and sends: `peaks` the bytes of each kind at the fullest moment of each part of a step, `sent` in a whole step.

    `sent`, and in how many `calls`, by what is done, by how many ranks, and within how many side by side those are.
    """

    peaks: dict[str, Counter[Kind]]
    sent: Counter[Way]
    calls: Counter[Way]

    @property
    def peak(self) -> dict[Kind, int]:
        """The bytes of each kind when there are most of all."""
        fullest = max(self.peaks.values(), key=Counter.total)
        return {kind: fullest[kind] for kind in KINDS}

    @property
    def bytes(self) -> int:
        return sum(self.peak.values())


def traced(
    arch: Arch, context: int, layout: Layout, recipe: AdamW | Muon, dtype: str = "bfloat16", device: str = "cpu"
) -> Trace:  # fmt: skip
    """A step of a deep model, from those of two shallow ones (three where there are two stacks): each further layer adds what the last did.

    A step is cut as for this kind of `device`, though its tensors lie nowhere. The fullest moment of each part of a step is followed apart,
    for where most is held changes with the depth.
    """
    depths = {name: least_depth(arch, name) for name in arch.stacks}
    shallow = found = traced_whole(with_depths(arch, depths), context, layout, recipe, dtype, device)
    for name, stack in arch.stacks.items():
        unit = len(stack.pattern)
        more = (stack.depth - depths[name]) // unit
        if more:
            deeper = traced_whole(with_depths(arch, {**depths, name: depths[name] + unit}), context, layout, recipe, dtype, device)
            found = further(found, shallow, deeper, more)
    return found


def least_depth(arch: Arch, name: str) -> int:
    """The depth from which on another repetition of the pattern changes nothing but the number of its layers: each layer of it stands
    between others once, as it will in a deeper model."""
    stack = arch.stacks[name]
    unit = len(stack.pattern)
    return min(stack.depth, (3 if unit == 1 else 2) * unit + stack.depth % unit)


def with_depths(arch: Arch, depths: dict[str, int]) -> Arch:
    changed: dict[str, Any] = {name: replace(arch.stacks[name], depth=depth) for name, depth in depths.items()}
    return replace(arch, **changed)


def further(found: Trace, shallow: Trace, deeper: Trace, times: int) -> Trace:
    """`found`, and so many times what the deeper one has more than the shallow one."""

    def count(one: Counter, a: Counter, b: Counter) -> Counter:
        return Counter({key: one[key] + times * (b[key] - a[key]) for key in {**a, **b}})

    peaks = {name: count(found.peaks[name], peak, deeper.peaks[name]) for name, peak in shallow.peaks.items()}
    return Trace(peaks, count(found.sent, shallow.sent, deeper.sent), count(found.calls, shallow.calls, deeper.calls))


def traced_whole(arch: Arch, context: int, layout: Layout, recipe: AdamW | Muon, dtype: str, device: str = "cpu") -> Trace:
    """The same by tracing all layers."""
    with alone_among(layout.ranks):
        model = shell(arch)
        if layout.ranks > 1:
            spread_out(model, mesh_of("cpu", layout.ranks, layout.tensor))
        if layout.recompute:
            recompute(model)
        with FakeTensorMode(allow_non_fake_inputs=True), Answers(), Ledger() as ledger:
            materialise(model, "cpu")
            optimizer = Optimizer(model, recipe)
            settle(optimizer, gradients=layout.accumulate > 1)
            watch(model, optimizer, ledger)
            state = State(0, Plan(1), model, optimizer)
            batch = sample(arch, layout.rows, context)
            machine = Machine(dtype=dtype)  # pyrefly: ignore[bad-argument-type]  (a choice of two)
            with only_new_garbage():
                ledger.mark("embedding")
                run_steps(state, PredictTokens(device=device), lambda step: [batch], Constant(), machine, [])
    return told(ledger, layout.accumulate)


def told(ledger: Ledger, micro_batches: int) -> Trace:
    sent, calls = Counter[Way](), Counter[Way]()
    for moment, exchange in ledger.exchanges:
        if moment >= ledger.marks[0][0]:
            times = 1 if ledger.names_at(moment) == (ONCE,) else micro_batches
            way = (exchange.name, exchange.ranks, exchange.span)
            sent[way] += round(times * exchange.sent)
            calls[way] += times
    return Trace(ledger.peaks(), sent, calls)


def settle(optimizer: Optimizer, gradients: bool) -> None:
    """Give the optimiser its state, which it has after a first step, and the weights the gradients that later micro-batches find."""
    for parameter in optimizer.trained.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.collect()
    for part in optimizer.parts:
        if isinstance(part, OurMuon):  # whose step is long, for all ranks take part in it
            part.state |= {own: {"momentum": torch.zeros_like(own)} for group in part.param_groups for own in group["params"]}
        else:
            part.step()
    if not gradients:
        optimizer.zero_grad()


def watch(model: Transformer, optimizer: Optimizer, ledger: Ledger) -> None:
    """Let the ledger know of kinds and of the parts of a step: each block by its place, forward and backward, and the optimiser's step."""
    ledger.is_kind("weights", optimizer.names)
    ledger.is_kind("optimizer", optimizer.tensors().values())

    def gathered(*_: Any) -> None:
        ledger.mark(ONCE)
        ledger.is_kind("gradients", optimizer.gradients().values())

    optimizer.parts[0].register_step_pre_hook(gathered)
    for name, stack in model.arch.stacks.items():
        unit, blocks = len(stack.pattern), list(model.get_submodule(f"{name}.blocks").children())
        for i, block in enumerate(blocks):
            ledger.watch(block, *(f"{name} {place} {i % unit}" for place in places(i // unit, -(-len(blocks) // unit))))


def places(i: int, of: int) -> list[str]:
    """Where the `i`-th of so many repetitions stands, from the beginning and from the end.

    >>> [places(i, 3) for i in range(3)]
    [['first'], ['second', 'last but one'], ['last']]
    """
    found = {0: "first", of - 1: "last"}.get(i)
    if found is not None:
        return [found]
    return [name for place, name in ((1, "second"), (of - 2, "last but one")) if i == place] or ["middle"]


def sample(arch: Arch, rows: int, context: int) -> Batch:
    """Rows of the shape that this model learns from, all of them full: the next word, hidden words, or a target of a source."""
    if not isinstance(arch.head, Words):
        raise ValueError(f"this model ends in {type(arch.head).__name__} and has no scores for words: plan one that has")
    tokens = np.zeros((rows, context), dtype=np.int64)
    labels = tokens.copy()
    if "decoder" not in arch.stacks:
        labels[:, math.ceil(TRAINED * context) :] = IGNORED
    return Batch(tokens, labels, source=Source(tokens) if len(arch.stacks) == 2 else None)


class Answers(TorchDispatchMode):
    """What a step asks of values that fake tensors do not have: a number is 2 (above a norm that is clipped) or, of whole ones, 0;
    tokens go to all experts alike; masks are of no simple form."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        match func:
            case aten._local_scalar_dense.default:
                return 2.0 if args[0].is_floating_point() else 0
            case aten.equal.default:
                return False
            case aten.bincount.default:
                count, bins = args[0].numel(), (kwargs or {}).get("minlength", args[2] if len(args) > 2 else 0)
                with _real():
                    return torch.tensor([count // bins + (i < count % bins) for i in range(bins)])
        return func(*args, **(kwargs or {}))


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """Inside, looking for what nobody can reach is quick: what was there before is left alone."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _real() -> Iterator[None]:
    """Inside, tensors have values, also where fake ones are made around it."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():
        yield


@contextmanager
def alone_among(ranks: int) -> Iterator[None]:
    """Inside, this process is the first of so many, of which the others do not exist: what they would say never comes."""
    if ranks == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
