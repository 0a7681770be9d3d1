"""A run as data: everything that decides what training does, written whole to `run.json`. Nothing here imports torch."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from fledge.adapt.settings import Lora
from fledge.arch import Arch, Classes
from fledge.arch.record import differences, from_json, to_json

ObjectiveName = Literal["next-word", "masked-word", "denoise", "instruct", "pairs", "classify", "prefer", "distill", "reward"]
FAMILIES: dict[str, tuple[str, ...]] = {  # what an objective needs, where not any will do
    "next-word": ("decoder",),
    "masked-word": ("encoder",),
    "denoise": ("encoder", "decoder"),
    "instruct": ("decoder",),
    "pairs": ("encoder", "decoder"),
    "prefer": ("decoder",),
    "distill": ("decoder",),
    "reward": ("decoder",),
}


PLAIN = {"tensor": 1, "recompute": False}  # of a machine: what changes nothing of what is computed, as it is unless asked for


@dataclass(frozen=True)
class Masks:
    """Which words are hidden: a `share` of the tokens, with `whole_words` in whole words (Devlin et al., 2018, arXiv:1810.04805)."""

    share: float = 0.15
    whole_words: bool = False

    def __post_init__(self):
        _share(self, "share")


@dataclass(frozen=True)
class Spans:
    """Which spans are lost: a `share` of the tokens, `length` tokens each on average (Raffel et al., 2019, arXiv:1910.10683)."""

    share: float = 0.15
    length: float = 3.0

    def __post_init__(self):
        _share(self, "share")
        _at_least(self, 1, "length")


@dataclass(frozen=True)
class Data:
    """What is read: the sources as given and the `fingerprint` of what they hold; `separate_documents` stops attention at their borders.

    `moving` cuts the text into rows at other places in each epoch, so that no row is seen twice. `noise` is how the text is spoilt
    that is to be mended, `smoothing` the share of each label that lies on all words alike.
    `mix`: the share of the tokens that comes from each group of the text; without it all are read in proportion.
    `packing`: rows are stretches of the stream of documents, or hold whole documents (Ding et al., 2024, arXiv:2404.10830).
    """

    sources: tuple[str, ...] = ()
    fingerprint: str = ""
    objective: ObjectiveName = "next-word"
    separate_documents: bool = False
    moving: bool = True
    noise: Masks | Spans | None = None
    smoothing: float = 0.0
    mix: tuple[tuple[str, float], ...] = ()
    packing: Literal["stream", "best-fit"] = "stream"

    def __post_init__(self):
        _share(self, "smoothing")
        if self.packing == "best-fit" and self.objective != "next-word":
            raise ValueError(f"data.packing is best-fit, but {self.objective} takes its rows from a stream: leave it out")
        wanted = {"masked-word": Masks, "denoise": Spans}.get(self.objective, type(None))
        if not isinstance(self.noise, wanted):
            raise ValueError(
                f"data.noise is {self.noise}, but {self.objective} needs {'none' if wanted is type(None) else wanted.__name__}"
            )


@dataclass(frozen=True)
class Preference:
    """How one of two answers is preferred (Rafailov et al., 2023, arXiv:2305.18290): `beta` holds the model to what it was.

    `length_normalised` compares log-probabilities a token (Meng et al., 2024, arXiv:2405.14734). `sft` is the weight of the chosen
    answer's own loss a token beside it (Pang et al., 2024, arXiv:2404.19733), `smoothing` the share of pairs taken to be the wrong way
    round (Mitchell, 2023, ericmitchell.ai/cdpo.pdf).
    """

    beta: float = 0.1
    length_normalised: bool = False
    sft: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self):
        _at_least(self, 0, "beta", "sft")
        _share(self, "smoothing")


@dataclass(frozen=True)
class Distillation:
    """How a teacher's words are learned (Hinton et al., 2015, arXiv:1503.02531): a `share` of the loss is the divergence from its whole
    distribution at each token, at a `temperature`; the rest is that of the words that stand there.
    """

    share: float = 0.9
    temperature: float = 1.0

    def __post_init__(self):
        _share(self, "share")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, but it lies above 0")


@dataclass(frozen=True)
class Reward:
    """How a reward is learned from (GRPO: Shao et al., 2024, arXiv:2402.03300): each question is answered `samples` times with at most
    `tokens` tokens at a `temperature`, and an answer counts by how far its reward lies above the mean of its question's.

    That difference is divided by the question's deviation where `scaled`. `kl` is the weight of the divergence from the model that it was.
    """

    samples: int = 8
    tokens: int = 128
    temperature: float = 1.0
    scaled: bool = True
    kl: float = 0.0

    def __post_init__(self):
        _at_least(self, 2, "samples")
        _at_least(self, 1, "tokens")
        _at_least(self, 0, "kl")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, but answers must differ: it lies above 0")


GOALS: dict[str, type] = {"prefer": Preference, "distill": Distillation, "reward": Reward}


@dataclass(frozen=True)
class Batch:
    """One step trains on `accumulate` micro-batches of `rows` sequences of `context` tokens."""

    rows: int = 16
    accumulate: int = 1
    context: int = 256

    def __post_init__(self):
        _at_least(self, 1, "rows", "accumulate", "context")

    @property
    def tokens(self) -> int:
        return self.rows * self.accumulate * self.context


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay on matrices (Loshchilov and Hutter, 2019, arXiv:1711.05101).

    `clip` bounds the norm of all gradients together; 0 is no bound.
    """

    rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    decay_embeddings: bool = False
    eps: float = 1e-8
    clip: float = 1.0

    def __post_init__(self):
        _at_least(self, 0, "rate", "weight_decay", "eps", "clip")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {list(self.betas)}: each lies in [0, 1)")


@dataclass(frozen=True)
class Muon:
    """Orthogonalised momentum for the matrices inside the blocks (Jordan et al., 2024), AdamW at `adamw_rate` for the rest.

    Updates are scaled to AdamW's root mean square (Liu et al., 2025, arXiv:2502.16982), so `rate` is of AdamW's size.
    """

    rate: float = 5e-3
    momentum: float = 0.95
    weight_decay: float = 0.1
    adamw_rate: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    clip: float = 1.0

    def __post_init__(self):
        _at_least(self, 0, "rate", "weight_decay", "adamw_rate", "eps", "clip")
        if not all(0 <= beta < 1 for beta in (self.momentum, *self.betas)):
            raise ValueError(f"momentum {self.momentum} and betas {list(self.betas)}: each lies in [0, 1)")


@dataclass(frozen=True)
class Stable:
    """Warm-up over `warmup` steps, a plateau, a straight fall to `final` of the rate over the last `decay` share of steps.

    Hägele et al., 2024, arXiv:2405.18392.
    """

    warmup: int = 50
    decay: float = 0.4
    final: float = 0.0

    def __post_init__(self):
        _at_least(self, 0, "warmup")
        _share(self, "decay", "final")


@dataclass(frozen=True)
class Cosine:
    """Warm-up over `warmup` steps, then half a cosine down to `final` of the rate (Loshchilov and Hutter, 2017, arXiv:1608.03983)."""

    warmup: int = 50
    final: float = 0.1

    def __post_init__(self):
        _at_least(self, 0, "warmup")
        _share(self, "final")


@dataclass(frozen=True)
class InverseRoot:
    """Warm-up over `warmup` steps, then a fall with the inverse root of the step (Vaswani et al., 2017, arXiv:1706.03762, eq. 3).

    The rate is that of its peak.
    """

    warmup: int = 4000

    def __post_init__(self):
        _at_least(self, 1, "warmup")


@dataclass(frozen=True)
class Constant:
    """The same rate at every step."""


Schedule = Stable | Cosine | InverseRoot | Constant


@dataclass(frozen=True)
class Plan:
    """How long to train: a log that starts with `steps`; a revision `(step, total)` sets a new total from that step on.

    `seconds` is the budget as given, wall time from the command's start to its end summed over resumptions; `reserve`
    of them are kept for what follows the last step. `tokens` is the budget as given in tokens. A skip `(step, batches)`
    leaves out so many batches from that step on. `most` steps are never exceeded, whatever the time allows. `expected` are the bits per
    byte that were foreseen when this was planned, where they can be.
    """

    steps: int = 1000
    seconds: float | None = None
    tokens: int | None = None
    reserve: float = 0.0
    revisions: tuple[tuple[int, int], ...] = ()
    skips: tuple[tuple[int, int], ...] = ()
    most: int | None = None
    expected: float | None = None

    def __post_init__(self):
        _at_least(self, 1, "steps")
        _at_least(self, 0, "reserve")
        if self.seconds is not None and self.seconds <= 0:
            raise ValueError(f"a time of {self.seconds:g} seconds trains nothing: give more than 0")
        for name, entries in (("revisions", self.revisions), ("skips", self.skips)):
            if [at for at, _ in entries] != sorted({at for at, _ in entries}):
                raise ValueError(f"the {name} {list(entries)} are not in the order of their steps")

    def total(self, step: int) -> int:
        """The number of steps planned, as known when `step` begins."""
        return next((total for at, total in reversed(self.revisions) if at <= step), self.steps)

    def revised(self, step: int, total: int) -> "Plan":
        return replace(self, revisions=(*self.revisions, (step, total)))

    def batch(self, step: int) -> int:
        """The number of the batch that `step` reads.

        >>> [Plan(5, skips=((2, 10),)).batch(step) for step in range(5)]
        [0, 1, 12, 13, 14]
        """
        return step + sum(batches for at, batches in self.skips if at <= step)

    def skipping(self, step: int, batch: int) -> "Plan":
        """From `step` on the batches go on with number `batch`; what was skipped at or after that step lies before it."""
        kept = tuple(skip for skip in self.skips if skip[0] < step)
        return replace(self, skips=(*kept, (step, batch - replace(self, skips=kept).batch(step))))


@dataclass(frozen=True)
class Guard:
    """What is done when training goes wrong; a run may go on with other guards than it was begun with.

    The batch of a loss or gradient that is not finite stops the run or is skipped. A spike, which is `hits` losses in a row that lie
    more than `sigmas` above the `window` before them (see `fledge.train.guard`), is told; or the run goes back to the checkpoint
    before it and skips all batches since.
    """

    not_finite: Literal["stop", "skip"] = "stop"
    spike: Literal["tell", "rewind"] = "tell"
    window: int = 64
    sigmas: float = 6.0
    hits: int = 3

    def __post_init__(self):
        _at_least(self, 2, "window")
        _at_least(self, 0, "sigmas")
        _at_least(self, 1, "hits")


@dataclass(frozen=True)
class Save:
    """When to keep what: a checkpoint every `seconds` (or `steps`), the last `keep` and the best of them.

    Validation comes every `evaluate` steps; at 0 as often as 5 % of the time allow. Training ends after `patience`
    validations in a row without a better score; 0 never ends it. In the last `average` of the steps, a share from 0 to 1, what is
    validated and exported is the mean of the weights after each of them (Izmailov et al., 2018, arXiv:1803.05407).
    """

    seconds: float = 120.0
    steps: int = 0
    keep: int = 2
    evaluate: int = 0
    patience: int = 0
    average: float = 0.0

    def __post_init__(self):
        _at_least(self, 0, "seconds", "steps", "evaluate", "patience")
        _share(self, "average")
        _at_least(self, 1, "keep")


@dataclass(frozen=True)
class Machine:
    """Where it runs; `dtype` is that of the matrix products (weights stay fp32), `threads` 0 leaves torch's own number.

    `kernels` says whether the parts that a compiler of this machine has built take part, see `fledge.model.kernels`.
    Of the processes that `torchrun` starts, `tensor` share each layer. With `recompute` only the inputs of blocks are kept for the
    backward pass: less memory, a third more time. Neither changes what is computed, so a run may go on with others.
    """

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int = 0
    deterministic: bool = False
    seed: int = 0
    kernels: bool = False
    tensor: int = 1
    recompute: bool = False

    def __post_init__(self):
        _at_least(self, 0, "threads", "seed")
        _at_least(self, 1, "tensor")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device {self.device!r} is unknown: use auto, cpu or cuda")


@dataclass(frozen=True)
class Run:
    """One training run, whole; `--set batch.rows=8` reaches every field."""

    arch: Arch
    data: Data = field(default_factory=Data)
    batch: Batch = field(default_factory=Batch)
    optimizer: AdamW | Muon = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=Stable)
    plan: Plan = field(default_factory=Plan)
    save: Save = field(default_factory=Save)
    machine: Machine = field(default_factory=Machine)
    guard: Guard = field(default_factory=Guard)
    adapter: Lora | None = None
    goal: Preference | Distillation | Reward | None = None

    def __post_init__(self):
        if self.adapter is not None and self.machine.tensor > 1:
            raise ValueError(f"machine.tensor is {self.machine.tensor}, but an adapter's layers are not shared: leave it at 1")
        if self.batch.context > self.arch.context:
            raise ValueError(
                f"batch.context {self.batch.context:,}, but the model takes {self.arch.context:,} tokens: "
                f"use batch.context={self.arch.context}"
            )
        needed, stacks = FAMILIES.get(self.data.objective), tuple(self.arch.stacks)
        if needed is not None and needed != stacks:
            raise ValueError(
                f"data.objective is {self.data.objective!r}, which needs a model with {named(needed)}, but this one has {named(stacks)}"
            )
        wanted = GOALS.get(self.data.objective, type(None))
        if not isinstance(self.goal, wanted):
            given = "none" if self.goal is None else type(self.goal).__name__
            needed = "none" if wanted is type(None) else wanted.__name__
            raise ValueError(f"goal is {given}, but {self.data.objective} needs {needed}")
        if (self.data.objective == "classify") != isinstance(self.arch.head, Classes):
            raise ValueError(f"data.objective is {self.data.objective!r}, but the model ends in {type(self.arch.head).__name__}")


def write_run(folder: Path, run: Run, asked: Mapping | None = None) -> None:
    """Write `folder/run.json` in one rename: the run, and under `asked` what the user typed (kept from the file when not given)."""
    path = folder / "run.json"
    if asked is None:
        asked = json.loads(path.read_text(encoding="utf-8"))["asked"] if path.exists() else {}
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump({**to_json(run), "asked": dict(asked)}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read_run(folder: Path, asked: Mapping | None = None) -> Run | None:
    """The run that `folder/run.json` holds; None where there is none.

    Raises `ValueError` with every difference when `asked` is not what was asked when the run began.
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        begun_with = data.pop("asked")
        run = from_json(Run, data)
    except (ValueError, KeyError, TypeError) as broken:
        raise ValueError(f"{path} cannot be read ({broken}): give another --out, or delete the folder to start again") from None
    if asked is not None:
        refuse_changes(folder, _binding(begun_with), _binding(to_json(dict(asked))))
    return run


def refuse_changes(folder: Path, old: dict, new: dict) -> None:
    """Raise `ValueError` with each setting in which a run's JSON differs from the one in `folder`."""
    changed = differences(old, new)
    if changed:
        listed = "\n  ".join(changed)
        raise ValueError(
            f"{folder} holds a run with other settings:\n  {listed}\nGive the old settings to go on, or another --out to start anew."
        )


def settings(run: Run) -> dict:
    """The run's JSON without the revisions and skips, which training adds itself, and without what may change."""
    plan, machine = replace(run.plan, revisions=(), skips=()), replace(run.machine, **PLAIN)
    return to_json(replace(run, plan=plan, machine=machine, guard=Guard()))


def may_change(name: str) -> bool:
    """Whether a run may go on with another value of this setting than it was begun with."""
    return name.startswith("guard.") or name in {f"machine.{field}" for field in PLAIN}


def _binding(asked: dict) -> dict:
    """What was asked, but for the settings that may change."""
    kept = {name: value for name, value in asked.get("set", {}).items() if not may_change(name)}
    return {**{name: value for name, value in asked.items() if name != "set"}, **({"set": kept} if kept else {})}


def named(stacks: Sequence[str]) -> str:
    """Stacks as a sentence names them.

    >>> named(["decoder"])
    'a decoder alone'
    """
    return "an encoder and a decoder" if len(stacks) == 2 else f"{'an' if stacks[0] == 'encoder' else 'a'} {stacks[0]} alone"


def _at_least(record, least: int, *names: str) -> None:
    for name in names:
        if not getattr(record, name) >= least:
            raise ValueError(f"{name} is {getattr(record, name)}, but {least} is the least")


def _share(record, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(record, name) <= 1:
            raise ValueError(f"{name} is {getattr(record, name)}, but a share lies from 0 to 1")


assert [f.name for f in fields(Run)] == [
    "arch",
    "data",
    "batch",
    "optimizer",
    "schedule",
    "plan",
    "save",
    "machine",
    "guard",
    "adapter",
    "goal",
]
