"""A step traced on tensors without values holds and sends what a real one does."""

import math
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fledge.arch import Arch, Classes, parameter_count
from fledge.model import Transformer, initialise, shell, starting_weights
from fledge.presets import gpt2
from fledge.presets.shapes import gemma3, modernbert, qwen3, t5
from fledge.train.loop import State, run_steps
from fledge.train.objective import PredictTokens
from fledge.train.optimizer import Optimizer
from fledge.train.parallel.engine import deal, materialise, mesh_of, recompute, spread_out
from fledge.train.parallel.spread import spread_of
from fledge.train.parallel.tracing import Layout, Trace, alone_among, least_depth, sample, traced, traced_whole
from fledge.train.run import AdamW, Constant, Machine, Muon, Plan
from tests.train.families import CONTEXT, FAMILIES
from tests.train.ranks import on_ranks

LENGTH, WORDS = 128, 512  # of what is measured: large enough that what kernels need for themselves does not count
SIZE: dict[str, Any] = {"vocabulary": WORDS, "context": LENGTH, "dropout": 0.0}
MEASURED: dict[str, tuple[Arch, Layout, AdamW | Muon]] = {
    "a decoder": (qwen3(128, 2, heads=4, kv_heads=2, **SIZE), Layout(rows=8), Muon()),
    "later micro-batches": (qwen3(128, 2, heads=4, kv_heads=2, **SIZE), Layout(rows=8, accumulate=2), AdamW()),
    "blocks computed again": (gpt2(128, 3, 4, **SIZE), Layout(rows=8, recompute=True), AdamW()),
    "an encoder": (modernbert(128, 3, heads=4, **SIZE), Layout(rows=8), Muon()),
    "both": (t5(128, 2, heads=4, head_size=32, gated=True, tied=False, **SIZE), Layout(rows=8), AdamW()),
    "experts": (qwen3(128, 2, heads=4, mlp=64, experts=4, chosen=2, **SIZE), Layout(rows=8), AdamW()),
}


class LetGo(TorchDispatchMode):
    """What is sent is let go of before the step goes on: gloo's threads do so by chance, up to a sixth of the peak later."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.namespace == "c10d":
            found[1].wait()
            time.sleep(0.003)
        return found


def allocated(arch: Arch, layout: Layout, recipe: AdamW | Muon) -> int:
    """The bytes that PyTorch's allocator has given out at most when a real model takes the traced step for a third time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        model = initialise(Transformer(arch))
        if layout.ranks > 1:
            spread_out(model, mesh_of("cpu", layout.ranks, layout.tensor))
            materialise(model, "cpu")
            deal(model, starting_weights(shell(arch)))
        if layout.recompute:
            recompute(model)
        state = State(0, Plan(3), model, Optimizer(model, recipe))
        batch = sample(arch, layout.rows, LENGTH)
        with LetGo():
            run_steps(state, PredictTokens(), lambda step: [batch] * layout.accumulate, Constant(), Machine(dtype="bfloat16"), [])
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # pyrefly: ignore[missing-attribute]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("name", MEASURED)
def test_it_holds_what_the_allocator_gives_out(name):
    arch, layout, recipe = MEASURED[name]
    found = traced_whole(arch, LENGTH, layout, recipe, "bfloat16")
    assert found.bytes == pytest.approx(allocated(arch, layout, recipe), rel=0.05)


@pytest.mark.slow
def test_each_rank_holds_what_the_allocator_gives_out_there():
    arch, layout, recipe = MEASURED["a decoder"][0], Layout(data=2, tensor=2, rows=8, accumulate=2), AdamW()
    found = traced_whole(arch, LENGTH, layout, recipe, "bfloat16")
    assert on_ranks(4, allocated, arch, layout, recipe) == pytest.approx([found.bytes] * 4, rel=0.01)


PATTERNS = {
    "one after another alike": qwen3(32, 7, heads=4, head_size=8, mlp=48, vocabulary=64, context=CONTEXT),
    "dense and banded": gpt2(32, 9, 4, vocabulary=64, context=CONTEXT, banded=4),
    "five local and one global": gemma3(32, 20, heads=4, kv_heads=2, head_size=8, mlp=48, vocabulary=64, context=CONTEXT, window=4),
    "both": t5(32, 4, heads=4, head_size=8, mlp=48, gated=True, tied=False, vocabulary=64, context=CONTEXT),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("layout", [Layout(rows=2), Layout(data=4, tensor=2, rows=1, accumulate=3, recompute=True)], ids=["one", "many"])
def test_two_depths_tell_of_all(name, layout):
    arch = PATTERNS[name]
    whole, extended = (trace(arch, CONTEXT, layout, AdamW(), "bfloat16") for trace in (traced_whole, traced))
    assert all(least_depth(arch, name) < stack.depth for name, stack in arch.stacks.items())
    assert extended.peak == whole.peak
    assert extended.calls == whole.calls
    assert dict(extended.sent) == pytest.approx(dict(whole.sent), rel=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_ranks_hold_and_send_adds_up(name):
    arch, size = FAMILIES[name], 4 * parameter_count(FAMILIES[name])

    def of(**layout) -> Trace:
        return traced_whole(arch, CONTEXT, Layout(**layout), AdamW(), "float32")

    alone, shared = of(), of(data=4)
    assert alone.peak["weights"] == size
    assert not alone.sent
    assert size / 4 <= shared.peak["weights"] <= 1.2 * size / 4  # rows that four ranks do not share evenly
    reduced = {name: shared.sent[name, 4, 4] for name in ("reduce_scatter_base", "allgather_base")}
    assert reduced["reduce_scatter_base"] == pytest.approx(0.75 * size, rel=0.2)  # each gradient once
    assert 1 < reduced["allgather_base"] / reduced["reduce_scatter_base"] <= 2  # each weight forward, most again backward
    twice = of(data=4, accumulate=6)
    assert twice.sent["reduce_scatter_base", 4, 4] == 6 * reduced["reduce_scatter_base"]
    assert alone.peak["optimizer"] == pytest.approx(2 * size, rel=0.01)


def test_more_ranks_are_no_more_operations():
    """What Muon's owners do is counted in matrices, not in ranks, of which there may be thousands."""

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += 1
            return func(*args, **(kwargs or {}))

    calls = []
    for ranks in (16, 256):
        with alone_among(ranks):
            model = shell(FAMILIES["decoder"])
            spread_out(model, mesh_of("cpu", ranks, 2))
            materialise(model, "cpu")
            spread = spread_of(model)
            matrices = {name: part for name, part in spread.held(model).items() if len(spread.cuts[name].shape) == 2}
            with torch.no_grad(), Count() as count:
                changed = spread.on_owners(matrices, lambda wholes: wholes)
            assert {name: part.shape for name, part in changed.items()} == {name: part.shape for name, part in matrices.items()}
        calls.append(count.calls)
    assert calls[1] <= calls[0]


def test_computing_again_holds_less_and_nothing_is_left_behind():
    arch = PATTERNS["one after another alike"]
    kept, again = (traced(arch, CONTEXT, Layout(rows=64, recompute=recompute), AdamW()) for recompute in (False, True))
    assert again.peak["activations"] < 0.5 * kept.peak["activations"]
    before = torch.UntypedStorage.resize_
    with pytest.raises(ValueError, match="no scores for words"):
        traced(replace(arch, head=Classes(("a", "b"))), CONTEXT, Layout(data=2), AdamW())
    assert torch.UntypedStorage.resize_ is before
    assert not torch.distributed.is_initialized()
    assert math.isfinite(kept.bytes)
