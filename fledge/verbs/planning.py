"""`plan`: what a training would take, on this machine by its one dial, or on many devices, without training anything."""

from __future__ import annotations

import math
import tempfile
import time as clock
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fledge.arch import Arch, parameter_count
from fledge.arch.record import did_you_mean, to_json
from fledge.train.devices import DEVICES, Device, known_as
from fledge.verbs import terminal
from fledge.verbs.machine import look
from fledge.verbs.preparation import corpus_from
from fledge.verbs.pretraining import Budget, fitting, mixed, planned, refuse_bad_mixing, started_by, wanted_shares
from fledge.verbs.session import (
    Duration,
    Mix,
    PresetName,
    Settings,
    applied,
    arch_of,
    is_model,
    preset_of,
    seconds_of,
    settings_of,
    texts_of,
)

if TYPE_CHECKING:
    from fledge.train.forecast import Forecast, Job
    from fledge.train.run import Run

DEFAULT_TIME = "10m"
Recompute = Literal["auto", "yes", "no"]
EXCHANGES = {
    "allgather_base": "gathers weights",
    "reduce_scatter_base": "sums gradients",
    "allreduce": "sums",
    "alltoall_base": "deals matrices",
}


@dataclass(frozen=True)
class PlannedRun:
    """What `pretrain` would do with a text: `bits_per_byte` is what it expects, where that is known."""

    text: str
    run: Run
    parameters: int
    tokens: int
    epochs: float
    bits_per_byte: float | None

    def __str__(self) -> str:
        run = self.run
        expected = f"; expected: {self.bits_per_byte:.2f} bits per byte" if self.bits_per_byte is not None else ""
        assert run.plan.seconds is not None
        return (
            f"{self.text} in {terminal.duration(run.plan.seconds)}: {terminal.size(self.parameters)} parameters, "
            f"{run.plan.steps:,} steps, {terminal.size(self.tokens)} tokens{expected}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.text, "parameters": self.parameters, "steps": self.run.plan.steps, "tokens": self.tokens, "epochs": self.epochs,
            "seconds": self.run.plan.seconds, "expected": {"bits_per_byte": self.bits_per_byte}, "run": to_json(self.run),
        }  # fmt: skip


@dataclass(frozen=True)
class PlannedFleet:
    """What training a model on devices takes; where it does not fit, `nearest` is the plan nearest to it that does."""

    name: str
    forecast: Forecast
    price_per_hour: float | None = None
    nearest: Forecast | None = None

    @property
    def device_hours(self) -> float:
        return self.forecast.seconds / 3600 * self.forecast.job.devices

    @property
    def price(self) -> float | None:
        return None if self.price_per_hour is None else self.price_per_hour * self.device_hours

    def __str__(self) -> str:
        job, found = self.forecast.job, self.forecast
        where = f"{self.name} on {fleet(job)}"
        held = f"{terminal.memory(found.trace.bytes)} of each one's {terminal.memory(job.device.memory)}"
        if found.fits:
            money = f", {self.price:,.0f} at {self.price_per_hour:g} a device and hour" if self.price is not None else ""
            return f"{where}: {days(found.seconds)}{money}; {held}"
        if self.nearest is None:
            return f"{where} does not fit: a step takes {held}, and more devices do not help: give a shorter --context or another --device"
        return f"{where} does not fit: a step takes {held}. The nearest that does: {change(found, self.nearest)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, **facts(self.forecast), "device_hours": self.device_hours, "price_per_hour": self.price_per_hour,
            "price": self.price, "nearest": None if self.nearest is None else facts(self.nearest),
        }  # fmt: skip


def plan(
    name: Sequence[str],
    /,
    *,
    time: Duration | None = None,
    arch: PresetName | None = None,
    devices: int | None = None,
    device: str = "auto",
    tokens: str | None = None,
    batch_tokens: str | None = None,
    context: int | None = None,
    tensor: int | None = None,
    rows: int | None = None,
    recompute: Recompute = "auto",
    utilisation: float | None = None,
    price_per_hour: float | None = None,
    mix: Mix | None = None,
    temperature: float | None = None,
    epochs_per_source: float | None = None,
    set: Settings | None = None,
) -> PlannedRun | PlannedFleet:
    """Plan a training without doing it: of a text with --time here, or of a preset or a model with --devices and --device.

    Args:
        name: a text as for pretrain, or a preset, a model's folder or its hub id.
        time: of a text: how long everything may take, such as 30m (10m when nothing is said).
        arch: of a text: a preset; without it the plan chooses a size.
        devices: of a model: how many devices train it (one when nothing is said).
        device: of what kind: h100, a100, h200, b200, l40s, rtx4090, mi300x, ..., or cpu for this machine's; auto takes what is here.
        tokens: to train on in all, such as 300B; by default 20 a parameter.
        batch_tokens: of a step, such as 4M; by default as GPT-3 of that size had them.
        context: tokens of a row; by default the model's.
        tensor: how many devices share each layer; by default what is quickest.
        rows: how many a device computes at a time; by default what is quickest.
        recompute: whether blocks keep their input alone and compute the rest again: yes, no, or auto for what is quickest.
        utilisation: which share of the devices' peak is reached; by default 0.4, as Llama 3 reached (arXiv:2407.21783, table 4).
        price_per_hour: of one device, in any money.
        mix: of a text: the share of the tokens that each group makes up, as for pretrain.
        temperature: of a text: instead of a mix, as for pretrain.
        epochs_per_source: of a text: read no group more often.
        set: any field of what is planned, such as arch.depth=4 or optimizer.kind=AdamW; may be given several times.
    """
    names, settings = texts_of(name), settings_of(set)
    model = None if len(names) > 1 else model_named(names[0], settings)
    for_models = {
        "devices": devices, "tokens": tokens, "batch-tokens": batch_tokens, "context": context, "tensor": tensor, "rows": rows,
        "utilisation": utilisation, "price-per-hour": price_per_hour,
    }  # fmt: skip
    for_texts = {"time": time, "arch": arch, "mix": mix, "temperature": temperature, "epochs-per-source": epochs_per_source}
    for flag, value in (for_models if model is None else for_texts).items():
        if value is not None:
            other = "a preset or a model" if model is None else "a text"
            raise ValueError(f"--{flag} plans {other}, but {names[0]} is {'a text' if model is None else 'a model'}")
    if model is None:
        refuse_bad_mixing(mix, temperature, epochs_per_source)
        return plan_text(names, time or DEFAULT_TIME, arch, settings, mix, temperature, epochs_per_source)
    kind, count = device_named(device), 1 if devices is None else devices
    for flag, value in (("devices", count), ("context", context), ("tensor", tensor), ("rows", rows)):
        if value is not None and value < 1:
            raise ValueError(f"--{flag} {value} is none: give at least 1")
    if utilisation is not None and not 0 < utilisation <= 1:
        raise ValueError(f"--utilisation {utilisation:g} is no share of a peak: give more than 0 and at most 1")
    job = job_of(model, settings, kind, count, tokens, batch_tokens, context, utilisation)
    return plan_fleet(names[0], job, tensor, rows, {"auto": None, "yes": True, "no": False}[recompute], price_per_hour)


def model_named(name: str, settings: dict[str, str]) -> Arch | None:
    """What a preset (with its dials among `settings`), a model's folder or a hub id is; None for a text. Says which of them it took."""
    from fledge.presets import PRESETS

    path = Path(name)
    if is_model(path) or ("/" in name and not path.exists() and not any(mark in name for mark in "*?[")):
        from fledge.adapt.folder import folder_at

        terminal.say(f"{name} is a model{'' if path.exists() else ' of the hub'}")
        return folder_at(name).arch
    if path.exists() or any(mark in name for mark in "*?["):
        return None
    if name not in PRESETS:
        raise ValueError(f"{name!r} is no text, no model's folder and no preset{did_you_mean(name, PRESETS)}")
    preset = PRESETS[name]
    terminal.say(f"{name} is a preset ({preset.source})")
    return arch_of(preset, settings, preset.arch().vocabulary)


def device_named(name: str) -> Device:
    """A row of the table, or what is here: its GPU where that has a row, else the processor, measured.

    Raises `ValueError` with the nearest for an unknown one.
    """
    found = look()
    if name == "auto":
        here = known_as(found.gpus[0]) if found.gpus else None
        return here or this_processor()
    if name == "cpu":
        return this_processor()
    if name not in DEVICES:
        raise ValueError(f"--device {name!r} is unknown{did_you_mean(name, [*DEVICES, 'cpu'])}")
    return DEVICES[name]


def this_processor() -> Device:
    """The processor of this machine as a device: how fast it multiplies is measured, several of them would talk over 10 Gb/s."""
    from fledge.train.loop import on_machine
    from fledge.train.meter import measured_rate
    from fledge.train.plan import this_machine

    machine, found = this_machine("cpu"), look()
    with on_machine(machine):
        rate = max(measured_rate(machine) for _ in range(3))
    source = f"this machine ({found.processor}), measured in {machine.dtype}; its compiled kernels are not traced"
    return Device("cpu", rate, found.memory, 0.0, 1.25e9, 1.25e9, 1, source)


def job_of(
    arch: Arch, settings: dict[str, str], device: Device, devices: int, tokens: str | None, batch_tokens: str | None, context: int | None,
    utilisation: float | None,
) -> Job:  # fmt: skip
    """The job as asked for, with what nobody said; `--set` reaches what a run would have.

    Raises `ValueError` for a model that writes and hides no words, and for rows that cannot be shared out among so many devices.
    """
    from fledge.arch import Words
    from fledge.train.forecast import TOKENS_PER_PARAMETER, UTILISATION, Job, batch_for, tensor_choices
    from fledge.train.plan import optimizer_for, this_machine
    from fledge.train.run import Batch, Data, Masks, Run, Spans

    if not isinstance(arch.head, Words):
        raise ValueError(f"this model ends in {type(arch.head).__name__} and has no scores for words: plan one that has")
    objective = fitting(None, arch)
    noise = {"masked-word": Masks(), "denoise": Spans()}.get(objective)
    run = Run(arch, Data(objective=objective, noise=noise), Batch(context=context or arch.context), optimizer_for(arch))
    run = applied(run, settings)
    length = run.batch.context
    wanted = count_of(batch_tokens, "--batch-tokens") if batch_tokens else batch_for(run.arch)
    job = Job(
        run.arch, length, max(1, round(wanted / length)), count_of(tokens, "--tokens") if tokens else
        float(TOKENS_PER_PARAMETER * parameter_count(run.arch)), run.optimizer, device, devices,
        UTILISATION if utilisation is None else utilisation, this_machine("cpu").dtype if device.name == "cpu" else "bfloat16",
    )  # fmt: skip
    fewest = devices // max(tensor_choices(job))  # rows that keep every device busy
    if job.batch < fewest and batch_tokens:
        raise ValueError(
            f"--batch-tokens {batch_tokens} are {job.batch:,} rows of {length:,}, but {devices:,} devices need {fewest:,} of them: "
            f"give --batch-tokens {fewest * length}, a shorter --context, or fewer --devices"
        )
    even = devices if job.batch >= devices else fewest
    return replace(job, batch=max(1, round(job.batch / even)) * even)


def count_of(text: str, flag: str) -> float:
    """A number of tokens such as 300B, 4M, 512k or 2048.

    >>> count_of("1.5B", "--tokens")
    1500000000.0
    """
    units = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
    number, unit = (text[:-1], units[text[-1].lower()]) if text[-1:].lower() in units else (text, 1.0)
    try:
        count = float(number.replace(",", "")) * unit
    except ValueError:
        count = 0.0
    if not 1 <= count < float("inf"):
        raise ValueError(f"{flag} {text!r} is no number of tokens: give for example 300B, 4M, 512k or 2048")
    return count


def plan_fleet(
    name: str, job: Job, tensor: int | None, rows: int | None, recompute: bool | None, price_per_hour: float | None
) -> PlannedFleet:
    """The quickest plan that fits, or the one that takes the least memory beside the nearest that does."""
    from fledge.train.forecast import Search

    with terminal.bar("Tracing steps on tensors without values", 1) as bar:
        search = Search(job, tensor, rows, recompute, bar.say)
        search.refuse_what_cannot_be()
        found = search.best()
        planned = PlannedFleet(name, found or search.least(), price_per_hour, None if found else search.nearest())
    show_fleet(planned)
    return planned


def show_fleet(planned: PlannedFleet) -> None:
    """The plan as tables on the terminal."""
    found, job = planned.forecast, planned.forecast.job
    device, count = job.device, terminal.size
    stacks = " and ".join(f"{stack.depth} x {stack.width:,}" for stack in job.arch.stacks.values())
    within, between = (f"{terminal.memory(rate)}/s" for rate in (device.link, device.network))
    sent = f"{within} within and {between} between machines of {device.node}" if device.node > 1 else f"{between} between machines"
    terminal.pairs(
        [
            ("model", f"{count(parameter_count(job.arch))} parameters, {stacks}; {type(job.recipe).__name__}, {job.dtype} products"),
            (
                "tokens",
                f"{count(job.tokens)} in {job.steps:,} steps of {count(job.batch * job.context)}, {job.batch:,} rows of {job.context:,}",
            ),
            ("devices", f"{fleet(job)}: {device.flops / 1e12:,.3g} TFLOP/s, {terminal.memory(device.memory)}, {sent} ({device.source})"),
            ("sharding", sharding(found)),
            ("activations", "computed again in the backward pass" if found.layout.recompute else "kept for the backward pass"),
        ]
    )
    peak = found.trace.peak
    rows = [[name, terminal.memory(peak[name]), f"{peak[name] / job.device.memory:.1%}"] for name in peak]
    rows.append(["all", terminal.memory(found.trace.bytes), f"{found.trace.bytes / job.device.memory:.1%}"])
    terminal.table(["memory of a device", "", f"of {terminal.memory(job.device.memory)}"], rows, best=len(rows) - 1 if found.fits else None)
    sent = sorted(found.trace.sent.items(), key=lambda item: -item[1])
    if sent:
        terminal.table(
            ["a device sends in a step", "among", "calls", "bytes"],
            [
                [EXCHANGES.get(way[0], way[0]), f"{way[1]:,}", f"{found.trace.calls[way]:,}", terminal.memory(count)]
                for way, count in sent if count >= 1e3
            ],
        )  # fmt: skip
    data, tensor = found.exchanging
    flops = f"{job.flops:.3g}".replace("e+", "e")
    hidden = "hidden behind it" if data <= found.computing else "longer than it"
    timed = f"{terminal.duration(found.computing)} computing at {job.utilisation:.0%} of the peak"
    if data:
        timed += f"; {terminal.duration(data)} among data ranks, {hidden}"
    if tensor:
        timed += f"; {terminal.duration(tensor)} among tensor ranks"
    terminal.pairs(
        [
            ("a step", f"{terminal.duration(found.step_seconds)}: {timed}"),
            ("in all", f"{flops} FLOP, {days(found.seconds)}, {planned.device_hours:,.0f} device hours"),
            ("assumed", f"{job.utilisation:.0%} of the peak (--utilisation; Llama 3 reached 38 to 43 %: arXiv:2407.21783, table 4)"),
            ("to run", typed(found)),
        ]
    )


def sharding(found: Forecast) -> str:
    layout = found.layout
    if layout.ranks == 1:
        return f"none; {layout.rows} rows at a time, {layout.accumulate} times a step"
    shared = f" x {layout.tensor} that share each layer (tensor parallel)" if layout.tensor > 1 else ""
    return f"{layout.data:,} data ranks (FSDP2){shared}; {layout.rows} rows at a time, {layout.accumulate} times a step"


def typed(found: Forecast) -> str:
    """The settings with which `fledge pretrain` lies so."""
    job, layout = found.job, found.layout
    settings = {"batch.rows": layout.rows * layout.data, "batch.accumulate": layout.accumulate, "batch.context": job.context}
    settings |= {"machine.tensor": layout.tensor} if layout.tensor > 1 else {}
    settings |= {"machine.recompute": "true"} if layout.recompute else {}
    machines = math.ceil(job.devices / job.device.node)
    start = f"torchrun --nnodes {machines} --nproc-per-node {min(job.devices, job.device.node)} -m " if job.devices > 1 else ""
    return f"{start}fledge pretrain ... " + " ".join(f"--set {name}={value}" for name, value in settings.items())


def fleet(job: Job) -> str:
    return f"{job.devices:,} x {job.device.name}" if job.devices > 1 else f"one {job.device.name}"


def days(seconds: float) -> str:
    return terminal.duration(seconds) if seconds < 2 * 86400 else f"{seconds / 86400:,.1f} days"


def change(asked: Forecast, nearest: Forecast) -> str:
    """What to type for a plan that fits, as far as it differs, and what it takes."""
    a, b = asked.layout, nearest.layout
    flags = {
        "devices": (asked.job.devices, nearest.job.devices), "tensor": (a.tensor, b.tensor), "rows": (a.rows, b.rows),
        "recompute": ("yes" if a.recompute else "no", "yes" if b.recompute else "no"),
    }  # fmt: skip
    typed = " ".join(f"--{flag} {now}" for flag, (before, now) in flags.items() if now != before)
    return f"{typed} ({terminal.memory(nearest.trace.bytes)} of {terminal.memory(nearest.job.device.memory)}, {days(nearest.seconds)})"


def facts(found: Forecast) -> dict[str, Any]:
    """A forecast as JSON holds it: bytes, seconds, FLOP."""
    job, layout = found.job, found.layout
    data, tensor = found.exchanging
    return {
        "parameters": parameter_count(job.arch), "devices": job.devices, "device": asdict(job.device), "tokens": job.tokens,
        "steps": job.steps, "batch_tokens": job.batch * job.context, "context": job.context, "dtype": job.dtype,
        "optimizer": to_json(job.recipe), "layout": asdict(layout), "fits": found.fits,
        "memory": {**found.trace.peak, "all": found.trace.bytes},
        "exchange": [
            {"name": way[0], "among": way[1], "span": way[2], "calls": found.trace.calls[way], "bytes": count}
            for way, count in found.trace.sent.items()
        ],
        "utilisation": job.utilisation, "flops": job.flops, "step_seconds": found.step_seconds, "computing_seconds": found.computing,
        "data_seconds": data, "tensor_seconds": tensor, "seconds": found.seconds, "days": found.seconds / 86400,
    }  # fmt: skip


def plan_text(
    names: Sequence[str], time: str, arch: PresetName | None, settings: dict[str, str], mix: str | None, temperature: float | None,
    epochs_per_source: float | None,
) -> PlannedRun:  # fmt: skip
    """What `pretrain` would do with a text in this time, by the same probe of this machine."""
    from fledge.train.plan import this_machine

    started, seconds = clock.monotonic(), seconds_of(time)
    terminal.say(f"This machine: {look()}")
    machine, preset = this_machine(seconds=seconds), preset_of(arch) if arch is not None else None
    with tempfile.TemporaryDirectory(prefix="fledge-plan-") as folder:
        corpus = corpus_from(names, Path(folder) / "corpus")
        given = started_by(arch_of(preset, settings, corpus.tokenizer.size), corpus.tokenizer) if preset is not None else None
        shares = wanted_shares(corpus, mix, temperature)
        run = planned(corpus, Budget(seconds), given, settings, machine, started, fitting(None, given))
        run = mixed(run, corpus, shares, epochs_per_source)
        summary = corpus.summary
    run = replace(run, data=replace(run.data, sources=tuple(names)))
    read = run.plan.steps * run.batch.tokens
    done = PlannedRun(", ".join(names), run, parameter_count(run.arch), read, read / summary.train_tokens, run.plan.expected)
    show_run(done)
    return done


def show_run(done: PlannedRun) -> None:
    from fledge.train.run import AdamW, Muon

    run, stack = done.run, done.run.arch.trunk
    match run.optimizer:
        case Muon(rate=rate, adamw_rate=other):
            rates = f"Muon, {rate:g} for matrices and {other:g} for the rest"
        case AdamW(rate=rate):
            rates = f"AdamW, {rate:g}"
    times = f", {run.batch.accumulate} times" if run.batch.accumulate > 1 else ""
    terminal.pairs(
        [
            ("size", f"{terminal.size(done.parameters)} parameters: width {stack.width}, depth {stack.depth}"),
            ("batch", f"{run.batch.rows} rows of {run.batch.context} tokens{times}"),
            ("rates", rates),
            ("schedule", f"{type(run.schedule).__name__.lower()}, {to_json(run.schedule).get('warmup', 0)} steps of warm-up"),
            ("steps", f"{run.plan.steps:,}, {terminal.size(done.tokens)} tokens: {done.epochs:.1f} times the text"),
            ("expected", "not known for this objective" if done.bits_per_byte is None else f"{done.bits_per_byte:.2f} bits per byte"),
            ("machine", f"{run.machine.device}, {run.machine.dtype} products, threads: {run.machine.threads}"),
        ]
    )  # fmt: skip
