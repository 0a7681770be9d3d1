"""What a training on many devices will take: its memory from a traced step, its time from what devices compute and send, and the layout
that takes least of it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from fledge.arch import Arch, forward_flops, parameter_count
from fledge.train.devices import Device
from fledge.train.parallel.tracing import Layout, Trace, traced
from fledge.train.run import AdamW, Muon

# Of the peak, with what waits for others: Grattafiori et al., 2024, arXiv:2407.21783, table 4 (38 to 43 % with H100s).
UTILISATION = 0.4
WORTHWHILE = 0.9  # a layout is not tried that could take no less than this share of the best one's time
SPARE = 0.08  # of the memory stays free for the driver, the exchanges' own buffers, and what lies in pieces
DOUBLINGS = 4  # of the devices that should be enough, for they also hold what they exchange
TOKENS_PER_PARAMETER = 20  # Hoffmann et al., 2022, arXiv:2203.15556
# (parameters up to, tokens a step): Brown et al., 2020, arXiv:2005.14165, table 2.1, in powers of two
BATCHES = ((1e9, 2**19), (5e9, 2**20), (15e9, 2**21), (math.inf, 2**22))


@dataclass(frozen=True)
class Job:
    """What is to be trained, on what: `batch` rows of `context` tokens a step, `tokens` in all."""

    arch: Arch
    context: int
    batch: int
    tokens: float
    recipe: AdamW | Muon
    device: Device
    devices: int
    utilisation: float = UTILISATION
    dtype: str = "bfloat16"

    @property
    def steps(self) -> int:
        return max(1, math.ceil(self.tokens / (self.batch * self.context)))

    @property
    def limit(self) -> float:
        """Bytes of a device's memory that a step may take."""
        return (1 - SPARE) * self.device.memory

    @property
    def flops(self) -> float:
        """Of the model's matrix products, forward and backward, in the whole training."""
        return 3.0 * forward_flops(self.arch, self.context) * self.batch * self.steps


@dataclass(frozen=True)
class Forecast:
    """What a job takes when it lies so: `seconds` of a step are those of computing and of exchanging among data and tensor ranks."""

    job: Job
    layout: Layout
    trace: Trace

    @property
    def fits(self) -> bool:
        return self.trace.bytes <= self.job.limit

    @property
    def computing(self) -> float:
        """Seconds of a step in which a device multiplies; what is computed again counts again."""
        return computing(self.job, self.layout.recompute)

    @property
    def exchanging(self) -> tuple[float, float]:
        """Seconds of a step that a device's exchanges take among data ranks, and among tensor ranks."""
        job, layout = self.job, self.layout
        seconds = {True: 0.0, False: 0.0}
        for (_, ranks, span), sent in self.trace.sent.items():
            within_a_layer = layout.tensor > 1 and ranks == span == layout.tensor
            seconds[within_a_layer] += sent / speed(job, span)
        return seconds[False], seconds[True]

    @property
    def step_seconds(self) -> float:
        """Exchanges among data ranks hide behind computing, as far as they are no longer; those within a layer hide behind nothing."""
        data, tensor = self.exchanging
        return max(self.computing, data) + tensor

    @property
    def seconds(self) -> float:
        return self.step_seconds * self.job.steps


def speed(job: Job, span: int) -> float:
    """Bytes a second that go to a neighbour among ranks that lie within so many side by side."""
    return job.device.link if span <= job.device.node else job.device.network


def computing(job: Job, recompute: bool) -> float:
    again = (3 + recompute) / 3
    return again * job.flops / job.steps / (job.devices * job.device.flops * job.utilisation)


@dataclass
class Search:
    """Looks for the layout of a job that takes the least time and fits; what the caller fixed stays.

    Pairs of tensor ranks and recomputation are traced with a single row at a time, in the order of what they would take at best, and those
    that fit again with as many as fit. Where a layer is shared by too few ranks, it is not tried with fewer.
    """

    job: Job
    tensor: int | None = None
    rows: int | None = None
    recompute: bool | None = None
    say: Callable[[str], None] = lambda sentence: None
    traces: dict[tuple, Trace] = field(default_factory=dict)

    def layouts(self) -> Iterator[Layout]:
        """Every layout that the job and what is fixed allow, a row at a time."""
        for tensor in [self.tensor] if self.tensor else tensor_choices(self.job):
            data = self.job.devices // tensor
            each = self.job.batch // data
            if self.job.devices % tensor or self.job.batch % data or each % (self.rows or 1):
                continue
            for recompute in (False, True) if self.recompute is None else (self.recompute,):
                yield Layout(data, tensor, 1, each, recompute)

    def traced(self, layout: Layout) -> Trace:
        kind = "cpu" if self.job.device.name == "cpu" else "cuda"
        what = (self.job.arch, self.job.context, layout, self.job.recipe, self.job.dtype, kind)
        if what not in self.traces:
            self.say(f"tracing {said(layout)}")
            self.traces[what] = traced(*what)
        return self.traces[what]

    def best(self) -> Forecast | None:
        """The quickest layout that fits; None where none does."""
        found: Forecast | None = None
        too_large = {False: 0, True: 0}  # tensor ranks that are too few, with and without computing again
        for layout in sorted(self.layouts(), key=self.at_best):
            if found is not None and self.at_best(layout) >= WORTHWHILE * found.step_seconds:
                break
            if layout.tensor <= too_large[layout.recompute]:
                continue
            rival = self.with_rows(layout)
            if rival is None:
                too_large[layout.recompute] = layout.tensor
            elif found is None or rival.step_seconds < found.step_seconds:
                found = rival
        return found

    def least(self) -> Forecast:
        """The layout that takes the least memory."""
        layouts = list(self.layouts())
        frugal = max(layouts, key=lambda layout: (layout.recompute, layout.tensor))
        return self.forecast(frugal if self.rows is None else with_rows(frugal, self.rows))

    def nearest(self) -> Forecast | None:
        """The plan that fits and changes least of what was fixed: fewer rows at a time, recomputation, shared layers, more devices."""
        freed = replace(self, rows=None)
        for step in (freed, replace(freed, recompute=None), replace(freed, recompute=None, tensor=None)):
            if (found := step.best()) is not None:
                return found
        return replace(freed, recompute=None, tensor=None).on_more_devices()

    def on_more_devices(self) -> Forecast | None:
        """The fewest devices, in powers of two of those asked for, on which some layout fits; None where more of them do not help.

        What they share is weights, gradients and the optimiser's state.
        """
        job, least = self.job, self.least().trace
        shared = sum(least.peak[kind] for kind in ("weights", "gradients", "optimizer"))
        room = job.limit - (least.bytes - shared)
        if room <= 0:
            return None
        times = 2 ** max(1, math.ceil(math.log2(shared / room)))
        for devices in (job.devices * times * 2**more for more in range(DOUBLINGS)):
            search = replace(self, job=replace(job, devices=devices, batch=math.ceil(job.batch / devices) * devices))
            if search.least().fits:
                return search.best()
        return None

    def refuse_what_cannot_be(self) -> None:
        """Raise `ValueError` where nothing can lie as the caller fixed it."""
        job, choices = self.job, tensor_choices(self.job)
        if self.tensor is not None and self.tensor not in choices:
            raise ValueError(
                f"--tensor {self.tensor} does not go here: on {job.devices:,} x {job.device.name} a layer of this model can be shared by "
                f"{', '.join(map(str, choices))}"
            )
        if any(self.layouts()):
            return
        data = job.devices // (self.tensor or 1)
        each = job.batch // data
        if job.batch % data:
            raise ValueError(
                f"a step of {job.batch:,} rows cannot be shared by {data:,} data ranks: give --batch-tokens {data * job.context}"
            )
        use = nearest(self.rows or 1, divisors(each))
        raise ValueError(f"--rows {self.rows} does not divide the {each:,} rows that a device has in a step: use {use}")

    def with_rows(self, layout: Layout) -> Forecast | None:
        """With as many rows at a time as fit; None where not one does."""
        if self.rows is not None:
            chosen = self.forecast(with_rows(layout, self.rows))
            return chosen if chosen.fits else None
        single = self.forecast(layout)
        if not single.fits:
            return None
        room = (self.job.limit - single.trace.bytes) / max(1, single.trace.peak["activations"])
        for rows in sorted(divisors(layout.accumulate), reverse=True):
            if 1 < rows <= 1 + room and (several := self.forecast(with_rows(layout, rows))).fits:
                return several
        return single

    def forecast(self, layout: Layout) -> Forecast:
        return Forecast(self.job, layout, self.traced(layout))

    def at_best(self, layout: Layout) -> float:
        """Seconds that a step takes at least: computing, or gathering all weights twice and summing their gradients once; with the sums
        within each layer, four of them or, with two more forward, six."""
        job, arch = self.job, self.job.arch
        weights = 3 * 4 * parameter_count(arch) / layout.tensor * (layout.data - 1) / layout.data
        states = sum(stack.depth * stack.width for stack in arch.stacks.values()) * 2 * job.context * layout.accumulate
        sums = (4 + 2 * layout.recompute) * states * 2 * (layout.tensor - 1) / layout.tensor
        hidden = weights / speed(job, layout.ranks)
        return max(computing(job, layout.recompute), hidden) + sums / speed(job, layout.tensor)


def with_rows(layout: Layout, rows: int) -> Layout:
    return replace(layout, rows=rows, accumulate=layout.rows * layout.accumulate // rows)


def tensor_choices(job: Job) -> list[int]:
    """How many devices of one machine may share a layer: powers of two that divide its heads and widths."""
    choices = [1]
    stacks = job.arch.stacks.values()
    attentions = [part for stack in stacks for block in stack.pattern for part in (block.attention, block.across) if part is not None]
    while (more := 2 * choices[-1]) <= min(job.device.node, job.devices) and job.devices % more == 0:
        if any(attention.kv_heads % more for attention in attentions):
            break
        choices.append(more)
    return choices


def batch_for(arch: Arch) -> int:
    """Tokens of a step where nothing is said."""
    parameters = parameter_count(arch)
    return next(tokens for most, tokens in BATCHES if parameters <= most)


def divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]


def nearest(wanted: int, choices: list[int]) -> int:
    return min(choices, key=lambda choice: abs(math.log(choice / wanted)))


def said(layout: Layout) -> str:
    """A layout in words.

    >>> said(Layout(128, 8, 2, 8, True))
    '128 data ranks x 8 tensor ranks, 2 rows at a time, recomputed'
    """
    ranks = f"{layout.data:,} data ranks" + (f" x {layout.tensor} tensor ranks" if layout.tensor > 1 else "")
    ranks = "one device" if layout.ranks == 1 else ranks
    return f"{ranks}, {layout.rows} {'row' if layout.rows == 1 else 'rows'} at a time" + (", recomputed" if layout.recompute else "")
