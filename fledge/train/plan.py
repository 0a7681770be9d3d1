"""The one dial: from a time and a text to a size, a batch, rates and steps, by a probe of this machine; and planning again on the way."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fledge.arch import Arch, forward_flops, parameter_count
from fledge.data.batches import Batch as Tokens
from fledge.model import Transformer, initialise, kernels
from fledge.presets import modernbert, qwen3, t5
from fledge.train.loop import BatchAt, State, on_machine, run_steps
from fledge.train.meter import matrix_rate
from fledge.train.objective import Objective, PredictTokens
from fledge.train.optimizer import Optimizer
from fledge.train.parallel.ranks import ranks
from fledge.train.run import AdamW, Batch, Constant, Machine, Muon, ObjectiveName, Plan, Run, Stable

# (width, depth) of the default shape, from small to large
LADDER = (
    (64, 2),
    (64, 4),
    (128, 3),
    (128, 4),
    (128, 6),
    (192, 4),
    (192, 6),
    (256, 4),
    (256, 6),
    (320, 6),
    (384, 6),
    (384, 8),
    (512, 8),
    (640, 10),
    (768, 12),
    (1024, 16),
)
TRIED = {"cpu": ((64, 2), (128, 4), (256, 4)), "cuda": ((256, 4), (512, 8), (1024, 16))}  # (width, depth) of what a probe times
DRIFT = 0.05  # of the steps left: the least change of speed that changes the plan
CONTEXT = 256  # tokens of a row, where no shape says how many its positions are made for
FEWEST_STEPS = 40  # below this nothing is learned
COMPILED_FROM = 300.0  # seconds of training: torch's compiler takes about half a minute of them on a GPU
PLAIN_SHARE = 0.42  # of the matrix rate, for what is not compiled: docs/decisions/0032-training-on-a-gpu.md
FEW_STEPS = 400  # of fine-tuning, up to which its rates need not fall: docs/decisions/0026
GENTLE = 0.1  # of the rates of fine-tuning, where preferences and rewards move a model that can answer already
WHOLE_RATE = 4096  # tokens of a step, below which Muon's rate is lower

# Bits per byte after D bytes through N parameters, in those that 5-grams need: E + A / N^a + B / D^b, the form of Hoffmann et al., 2022,
# arXiv:2203.15556, less G s³ D³ / (D³ + (K N)³) for the share s that can be copied: that is learned at once, by larger models later.
# Laid through runs on four texts: docs/decisions/0011-what-the-plan-expects.md.
E, A, ALPHA, B, BETA = 0.580, 11.48, 0.2977, 143.2, 0.4301
GAIN, LEARNED_AFTER = 13.87, 6.27  # G; K, in bytes a parameter
MOST_COPIED = 0.25  # no text was measured of which more can be
REPEATS_WORTH = 15.4  # epochs after which repeating is worth nothing more: Muennighoff et al., 2023, arXiv:2305.16264


@dataclass(frozen=True)
class Speed:
    """What a probe measured: `(training FLOP per token, tokens per second)`, one pair a shape."""

    points: tuple[tuple[float, float], ...]

    def tokens_per_second(self, arch: Arch, context: int) -> float:
        """Between and beyond the shapes that were tried: the FLOP per second of the nearest, straight in logarithms between."""
        flops = math.log(training_flops(arch, context))
        tried = np.log([(per_token, per_token * speed) for per_token, speed in sorted(self.points)])
        return math.exp(float(np.interp(flops, tried[:, 0], tried[:, 1])) - flops)


@dataclass(frozen=True)
class Difficulty:
    """How hard a text is: the bits per byte that `ngrams` need which have counted a megabyte of it, and the share of its tokens that can be
    `copied` from the few hundred before them (`fledge.evaluation.difficulty`)."""

    ngrams: float
    copied: float


@dataclass(frozen=True)
class Proposal:
    """What the plan chose and what it expects: `bits_per_byte` and `epochs` of the text; `tokens` and `seconds` of training."""

    arch: Arch
    batch: Batch
    optimizer: AdamW | Muon
    schedule: Stable
    plan: Plan
    tokens_per_second: float
    epochs: float
    bits_per_byte: float

    @property
    def tokens(self) -> int:
        return self.plan.steps * self.batch.tokens

    @property
    def seconds(self) -> float:
        return self.tokens / self.tokens_per_second

    def sentence(self) -> str:
        stack = self.arch.trunk
        expected = f"; expected: {self.plan.expected:.2f} bits per byte" if self.plan.expected is not None else ""
        return (
            f"{parameter_count(self.arch) / 1e6:.1f} M parameters (width {stack.width}, depth {stack.depth}), "
            f"{self.plan.steps:,} steps of {self.batch.tokens:,} tokens = {self.epochs:.1f} times the text, "
            f"{self.tokens_per_second:,.0f} tokens/s, about {self.seconds:.0f} s{expected}"
        )


def this_machine(
    device: str = "auto", dtype: str = "auto", threads: int = 0, deterministic: bool = False, seed: int = 0, seconds: float | None = 0.0
) -> Machine:  # fmt: skip
    """The machine as it is: a GPU where there is one, bf16 where the hardware multiplies it faster than fp32.

    On a single GPU torch's compiler takes part in what takes `seconds` of five minutes or more, or none knows how many
    (`worth_compiling`), unless the same bits are asked for. Raises `ValueError` for a device that is not here.
    """
    gpu = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if gpu else "cpu"
    if device.startswith("cuda") and not gpu:
        raise ValueError(f"device {device!r} is not on this machine: use --device cpu")
    if dtype == "auto":
        fast = torch.cuda.is_bf16_supported() if device.startswith("cuda") else _cpu_has_bf16()
        dtype = "bfloat16" if fast else "float32"
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype {dtype!r} is unknown: use float32, bfloat16 or auto")
    worthwhile = device == "cpu" or (ranks() == 1 and not deterministic and (seconds is None or seconds >= COMPILED_FROM))
    return Machine(device, dtype, threads or torch.get_num_threads(), deterministic, seed, worthwhile and kernels.available(device))


def worth_compiling(machine: Machine, arch: Arch, batch: Batch, steps: int) -> bool:
    """Whether compiled parts take part in so many steps: on a GPU, where torch's compiler spares more time than it costs."""
    flops = steps * batch.tokens * training_flops(arch, batch.context)
    gpu = machine.device.startswith("cuda")
    return machine.kernels and (not gpu or flops >= COMPILED_FROM * PLAIN_SHARE * matrix_rate(machine))


def _cpu_has_bf16() -> bool:
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def training_flops(arch: Arch, context: int) -> float:
    """Per token: forward, and twice that backward."""
    return 3 * forward_flops(arch, context) / context


def probe(
    machine: Machine, vocabulary: int, batch: Batch, seconds: float = 4.0, archs: Sequence[Arch] = (),
    optimizer: AdamW | Muon | None = None, objective: ObjectiveName = "next-word", sample: Tokens | None = None,
) -> Speed:  # fmt: skip
    """Time real training steps of a few default shapes (or of `archs`) on random tokens, or on the `sample` that an objective makes of
    `batch.tokens` tokens of text, for about `seconds` in all.

    Of several processes, this one alone is timed, and the others are taken to add as much. On a GPU nothing is compiled for it, which
    would take longer than that.
    """
    gpu = machine.device.startswith("cuda")
    archs = archs or [default_arch(*size, vocabulary, batch.context, objective) for size in TRIED["cuda" if gpu else "cpu"]]
    random = np.random.default_rng(0)
    points, start = [], time.monotonic()
    with on_machine(replace(machine, kernels=False) if gpu else machine):
        for i, arch in enumerate(archs):
            if sample is None:
                batch = in_parts(arch, batch)
            tokens = random.integers(arch.vocabulary, size=(batch.rows, batch.context + 1))
            part = sample or Tokens(tokens=tokens[:, :-1].copy(), labels=tokens[:, 1:].copy())
            model = initialise(Transformer(arch)).to(machine.device)
            state = State(0, Plan(1), model, Optimizer(model, optimizer or optimizer_for(arch)))
            until = start + seconds * (i + 1) / len(archs)
            took: list[float] = []
            while len(took) < 2 or time.monotonic() < until:
                began = time.monotonic()
                run_steps(state, PredictTokens(), lambda step: [part], Constant(), machine, [])  # noqa: B023
                took.append(time.monotonic() - began)
                state.plan = Plan(state.step + 1)
            points.append(
                (training_flops(arch, batch.context), ranks() * batch.rows * batch.context / min(took))
            )  # others' work only ever slows a step
            if time.monotonic() > start + seconds:
                break
    return Speed(tuple(points))


def steps_within(seconds: float, run: Run, model: Transformer, objective: Objective, batch_at: BatchAt) -> int:
    """How many steps of `run` fit into so many seconds here, by timing three on a copy of the model, or fewer where a step takes a tenth of
    the time; at least one."""
    twin = copy.deepcopy(model).to(run.machine.device)
    state = State(0, Plan(1), twin, Optimizer(twin, run.optimizer))
    took = []
    with on_machine(run.machine):
        for step in range(3):
            began = time.monotonic()
            state.plan = Plan(step + 1)
            run_steps(state, objective, batch_at, Constant(), run.machine, [])
            took.append(time.monotonic() - began)
            if sum(took) > seconds / 10:
                break
    return max(1, int(ranks() * (seconds - sum(took)) / min(took)))


def default_arch(width: int, depth: int, vocabulary: int, context: int, objective: ObjectiveName = "next-word") -> Arch:
    """The shape that fledge trains for an objective: Qwen 3's, ModernBERT's for an encoder, T5's (v1.1) where there are both.

    Of both the encoder and the decoder get half of the depth each, at least one layer.
    """
    match objective:
        case "masked-word":
            return modernbert(width, depth, vocabulary=vocabulary, context=context)
        case "denoise" | "pairs":
            return t5(width, max(1, depth // 2), vocabulary=vocabulary, context=context, gated=True, tied=False, dropout=0.0)
    return qwen3(width, depth, vocabulary=vocabulary, context=context)


def expected_bits(parameters: int, read: float, text: float, difficulty: Difficulty) -> float:
    """Bits per byte after `read` bytes of a text of `text` bytes, which repeats when `read` is more, and is so hard."""
    again = max(0.0, read / text - 1)
    worth = min(read, text) + text * REPEATS_WORTH * (1 - math.exp(-again / REPEATS_WORTH))
    copied = min(difficulty.copied, MOST_COPIED)
    copying = GAIN * copied**3 / (1 + (LEARNED_AFTER * parameters / worth) ** 3)
    in_ngrams = E + A / parameters**ALPHA + B / worth**BETA - copying
    return difficulty.ngrams * in_ngrams


def propose(
    seconds: float, tokens: int, bytes_per_token: float, vocabulary: int, speed: Speed, difficulty: Difficulty, arch: Arch | None = None,
    batch: Batch | None = None, objective: ObjectiveName = "next-word",
) -> Proposal:  # fmt: skip
    """The best training of `seconds` on a text of `tokens`: the size of the ladder (or `arch` as given) with the least expected loss.

    Raises `ValueError` with the nearest possible when the text is shorter than a context or the time too short.
    """
    context = batch.context if batch else arch.context if arch else CONTEXT
    if tokens <= context:
        raise ValueError(
            f"the text has {tokens:,} tokens, but one context of {context:,} needs {context + 1:,}: "
            f"give more text, or --set batch.context={max(1, tokens - 1)}"
        )
    archs = [arch] if arch else [default_arch(width, depth, vocabulary, context, objective) for width, depth in LADDER]
    proposals = [_with(a, seconds, tokens, bytes_per_token, speed, difficulty, context, batch) for a in archs]
    smallest, free = proposals[0], free_memory()
    proposals = [p for p in proposals if training_bytes(p.arch, p.batch) <= free]
    if not proposals:
        needed = training_bytes(smallest.arch, smallest.batch)
        raise ValueError(f"training this model needs {needed:,} bytes of memory and {free:,.0f} are free: use a smaller arch or batch.rows")
    proposals = [p for p in proposals if p.plan.steps >= FEWEST_STEPS]
    if not proposals:
        needed = math.ceil(FEWEST_STEPS * smallest.batch.tokens / smallest.tokens_per_second)
        raise ValueError(
            f"{seconds:.0f} s are too short to train {parameter_count(smallest.arch):,} parameters on this machine: "
            f"the least that teaches anything is {needed} s of training"
        )
    return min(proposals, key=lambda p: p.bits_per_byte)


def _with(
    arch: Arch, seconds: float, tokens: int, bytes_per_token: float, speed: Speed, difficulty: Difficulty, context: int,
    batch: Batch | None,
) -> Proposal:  # fmt: skip
    per_second = speed.tokens_per_second(arch, context)
    reads = per_second * seconds
    batch = batch or in_parts(arch, Batch(rows_for(reads, context), 1, context))
    steps = max(1, int(reads / batch.tokens))
    bits = expected_bits(parameter_count(arch), max(1.0, reads * bytes_per_token), tokens * bytes_per_token, difficulty)
    schedule = Stable(warmup=min(100, max(1, steps // 30)), decay=0.5)
    plan = Plan(steps, seconds, expected=bits if arch.writes and len(arch.stacks) == 1 else None)
    return Proposal(arch, batch, optimizer_for(arch, batch.tokens), schedule, plan, per_second, reads / tokens, bits)


def rows_for(reads: float, context: int) -> int:
    """Rows a step: about 1,500 steps, and from 2,048 to 524,288 tokens each; one at least for each process."""
    tokens = min(524_288, max(2_048, 2 ** round(math.log2(max(1.0, reads / 1_500)))))
    return max(ranks(), tokens // context)


def in_parts(arch: Arch, batch: Batch) -> Batch:
    """The same step in as many parts one after the other as the free memory asks for."""
    while batch.rows % (2 * ranks()) == 0 and training_bytes(arch, batch) > free_memory():
        batch = replace(batch, rows=batch.rows // 2, accumulate=2 * batch.accumulate)
    return batch


def optimizer_for(arch: Arch, tokens: int = WHOLE_RATE) -> Muon:
    """Muon at a rate that falls with the root of the width, 1.5e-2 at 128, AdamW at 1e-2 in the same way for the rest; no weight decay.

    For steps of fewer `tokens` than 4,096 Muon's is a third; for encoders it is half, and AdamW's a quarter; an encoder with a decoder
    wants 5e-3 of both. With a norm after the sum half of all is best, and for both stacks half of a decoder's: 3.15 instead of 3.44 nats
    after 240 steps of translating Multi30k (192 wide, 2 and 2 deep). How the rates were chosen: docs/decisions/0031.
    """
    after_sum = any(block.norm_sum is not None for block in arch.trunk.pattern)
    scale = (128 / arch.trunk.width) ** 0.5 / (2 if after_sum else 1)
    if arch.decoder is None:
        rate, other = 7.5e-3, 2.5e-3
    elif arch.encoder is not None and not after_sum:
        rate, other = 5e-3, 5e-3
    else:
        rate, other = 1.5e-2 if tokens >= WHOLE_RATE else 5e-3, 1e-2
    return Muon(rate=round(rate * scale, 5), weight_decay=0.0, adamw_rate=round(other * scale, 5))


def finetuning_optimizer(pretrained: AdamW | Muon | None, steps: int = FEW_STEPS) -> AdamW | Muon:
    """Two thirds of the rates that a model of ours was pretrained with; else 5e-5 (Devlin et al., 2019, arXiv:1810.04805).

    For more `steps` than 400 ours fall with their root, so that many rows take the weights no farther from what they knew than few do
    (docs/decisions/0026).

    >>> [round(finetuning_optimizer(AdamW(rate=3e-3), steps).rate, 6) for steps in (100, 400, 1600)]
    [0.002, 0.002, 0.001]
    """
    share = min(1, FEW_STEPS / steps) ** 0.5 / 1.5
    match pretrained:
        case Muon(rate=rate, adamw_rate=other):
            return at_rate(Muon(rate=rate, adamw_rate=other, weight_decay=0.0), share)
        case AdamW(rate=rate):
            return at_rate(AdamW(rate=rate), share)
        case None:
            return AdamW(rate=5e-5, weight_decay=0.01)


def at_rate(recipe: AdamW | Muon, factor: float) -> AdamW | Muon:
    """The same at a multiple of its rates."""
    match recipe:
        case Muon(rate=rate, adamw_rate=other):
            return replace(recipe, rate=factor * rate, adamw_rate=factor * other)
        case AdamW(rate=rate):
            return replace(recipe, rate=factor * rate)


def adapter_optimizer(pretrained: AdamW | Muon | None) -> AdamW | Muon:
    """What fine-tunes the whole model, without decay: Muon at twice its rate for low-rank changes, or AdamW at five times its own for all.

    How that was chosen, and what else was tried: docs/decisions/0025.
    """
    match finetuning_optimizer(pretrained):
        case Muon(rate=rate) as recipe:
            return replace(recipe, rate=2 * rate)
        case AdamW(rate=rate):
            return AdamW(rate=5 * rate, weight_decay=0.0)


def training_bytes(arch: Arch, batch: Batch) -> int:
    """Memory of a training step in fp32: weights, gradients, two moments, the copy of all but the gradients that is being saved, and about
    34 values a token, layer and width for backward."""
    layers = sum(stack.width * stack.depth for stack in arch.stacks.values())
    return 28 * parameter_count(arch) + 4 * batch.rows * batch.context * layers * 34


def free_memory() -> float:
    """Bytes of memory that are free, of the GPU where there is one."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # no Linux: memory is swapped before it runs out
        return math.inf


def pace(marks: Sequence[tuple[int, float]]) -> float:
    """Seconds a step over the later half of the time that `marks`, each (step, clock), lie in.

    Less would let a moment in which others use the machine end a run early: 15 seconds of it once made 385 steps of 3,016.
    """
    end, now = marks[-1]
    half = (marks[0][1] + now) / 2
    step, since = max((mark for mark in marks[:-1] if mark[1] <= half), default=marks[0])
    return (now - since) / (end - step)


def revised_total(plan: Plan, step: int, seconds_left: float, seconds_per_step: float) -> int | None:
    """The new number of steps when the speed has drifted from the plan, else None.

    A change counts when it is more than 5 % of the steps left and, so that the end is not nervous, 1 % of the whole time.
    """
    planned = plan.total(step) - step
    possible = max(0, math.floor(seconds_left / seconds_per_step))
    if plan.most is not None:
        possible = min(possible, plan.most - step)
    change = abs(possible - planned)
    small = change <= DRIFT * max(planned, possible) or change * seconds_per_step <= 0.01 * (plan.seconds or math.inf)
    return None if small else step + possible
