"""What every training verb does around `train`: the settings, the bar, the model folder, the way on."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, get_args

from cyclopts import Parameter

from fledge.arch import parameter_count
from fledge.arch.record import did_you_mean, differences, from_json, parse, to_json, with_setting
from fledge.train.tracking import TrackerName
from fledge.verbs import terminal

if TYPE_CHECKING:
    from fledge.arch import Arch
    from fledge.generation import Gapped
    from fledge.model import Transformer
    from fledge.presets import Preset
    from fledge.text import Tokenizer
    from fledge.train.loop import BatchAt, Hook, State
    from fledge.train.objective import Objective
    from fledge.train.run import AdamW, Muon, Run
    from fledge.train.training import Snapshot

Taken = ParamSpec("Taken")
Given = TypeVar("Given")
Place = Annotated[Path | str, Parameter(metavar="PATH")]  # a file or folder
Name = Annotated[str | Path, Parameter(metavar="MODEL")]  # of a model: its folder, or its id on the hub
Duration = Annotated[str, Parameter(metavar="TIME")]
PresetName = Annotated[str, Parameter(metavar="PRESET")]
Column = Annotated[str, Parameter(metavar="NAME")]
Settings = Annotated[Sequence[str], Parameter(metavar="NAME=VALUE")]
Mix = Annotated[str, Parameter(metavar="GROUP=SHARE,...")]
Trackers = Annotated[Sequence[TrackerName], Parameter(metavar="NAME")]
SAMPLE_TOKENS = 48
AFTER = 0.1  # of a fine-tuning's time, for what comes after the last step
VALIDATION_TOKENS = 65_536  # scored while training goes on
REFUSALS = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)  # of bad input
BEGAN: ContextVar[float | None] = ContextVar("BEGAN", default=None)  # of the command line that calls a verb, on `time.monotonic`
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def command_began() -> float:
    """When the command line began that calls this verb; now, where Python calls it."""
    began = BEGAN.get()
    return time.monotonic() if began is None else began


def process_began() -> float:
    """When this process began, before it imported anything; now, where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # proc_pid_stat(5): starttime
        return time.monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.monotonic()


def together(verb: Callable[Taken, Given]) -> Callable[Taken, Given]:
    """The verb, on each of the processes that `torchrun` started: the first prepares and plans, and the others follow it into training.

    Of a start that is refused nothing is left in the folder `out`.
    """

    @wraps(verb)
    def each(*arguments: Taken.args, **named: Taken.kwargs) -> Given:
        with begun_or_gone(Path(str(named.get("out")))):
            if int(os.environ.get("WORLD_SIZE", "1")) == 1:
                return verb(*arguments, **named)
            from fledge.train.parallel import ranks

            with ranks.joined():
                ranks.follow()
                return verb(*arguments, **named)

    return each


def alone(verb: Callable[Taken, Given]) -> Callable[Taken, Given]:
    """The verb, which one process does: `torchrun` is refused before anything starts. Else as `together`."""

    @wraps(verb)
    def one(*arguments: Taken.args, **named: Taken.kwargs) -> Given:
        if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
            raise ValueError(
                f"fledge finetune {verb.__name__} is done by one process, which writes the answers that it learns from, "
                f"but torchrun started {processes}: give the same command without it"
            )
        return together(verb)(*arguments, **named)

    return one


@contextmanager
def begun_or_gone(out: Path) -> Iterator[None]:
    """Inside a run begins in `out`; when it is refused for bad input before its first step, the folders that were made are removed."""
    run = out / "run"
    made = [folder for folder in (run, out, *out.parents) if not folder.exists()]
    try:
        yield
    except REFUSALS:
        told = run / "metrics.jsonl"
        if run in made and not (told.is_file() and told.stat().st_size):
            shutil.rmtree(run, ignore_errors=True)
            with suppress(OSError):  # something of another's lies there
                for folder in made[1:]:
                    folder.rmdir()
        raise


def seconds_of(text: str | float) -> float:
    """A duration such as `90s`, `30m`, `1.5h`, `2d` or `1h30m` in seconds; a plain number is seconds.

    Raises `ValueError` for what is no duration, and for none at all.

    >>> seconds_of("1h30m")
    5400.0
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", str(text))
    try:
        whole = parts and "".join(number + unit for number, unit in parts) == text
        seconds = sum(float(number) * UNITS[unit] for number, unit in parts) if whole else float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"a time of {text!r} is not understood: give for example 90s, 30m, 1h30m or 2d")
    if seconds <= 0:
        raise ValueError(f"a time of {text} is none: give for example 90s, 30m, 1h30m or 2d")
    return seconds


def settings_of(pairs: Sequence[str] | Mapping[str, Any] | None) -> dict[str, str]:
    """`--set a.b=value` pairs, or a mapping, as a dictionary of texts."""
    if isinstance(pairs, Mapping):
        return {name: str(value) for name, value in pairs.items()}
    split = [pair.partition("=") for pair in pairs or ()]
    for name, equals, _ in split:
        if not equals:
            raise ValueError(f"--set {name}: a setting is name=value, for example --set batch.rows=8")
    return {name: value for name, _, value in split}


def applied(run: Run, settings: Mapping[str, str]) -> Run:
    """The run with each `a.b` setting of the whole tree; those of `arch` that are dials of a preset were used before."""
    for name, value in settings.items():
        run = with_setting(run, name, value)
    return run


def is_model(path: Path) -> bool:
    """Whether a folder holds a model, or an adapter for one."""
    return any((path / config).is_file() for config in ("config.json", "adapter_config.json"))


def preset_of(name: str) -> Preset:
    """The preset `name`, said to start from random weights where trained ones can be had; `ValueError` with the nearest for another."""
    from fledge.presets import PRESETS

    if name not in PRESETS:
        raise ValueError(f"--arch {name!r} is no preset{did_you_mean(name, PRESETS)}")
    if PRESETS[name].hub is not None:
        terminal.say(f"  {name} is a preset: random weights; for trained ones: --from {PRESETS[name].hub}")
    return PRESETS[name]


def arch_of(preset: Preset, settings: dict[str, str], vocabulary: int) -> Arch:
    """The preset for a vocabulary; takes the dials it knows (`arch.depth=4`) out of `settings`.

    Raises `ValueError` for a setting that is neither a dial of the preset nor a field of what it makes, with the nearest of both.
    """
    dials = {key[5:]: parse(settings.pop(key)) for key in list(settings) if key.startswith("arch.") and key[5:] in preset.dial_names}
    arch = preset.arch(**{"vocabulary": vocabulary, **dials})
    known = {field.name for field in fields(arch)}
    for name in (key.split(".")[1] for key in settings if key.startswith("arch.")):
        if name not in known:
            raise ValueError(f"arch.{name} is unknown{did_you_mean(name, sorted({*known, *preset.dial_names}))}")
    return arch


def texts_of(given: str | Path | Sequence[str | Path]) -> list[str]:
    """One name or several, as texts, in a list."""
    return [str(given)] if isinstance(given, (str, Path)) else [str(name) for name in given]


def asked_of(arguments: Mapping[str, Any], leave_out: Sequence[str]) -> dict[str, Any]:
    """What was typed, as JSON: a run goes on only with the same. Raises `ValueError` for a length of training that is none."""
    for name in ("steps", "tokens", "epochs", "runs"):
        if (count := arguments.get(name)) is not None and count < 1:
            raise ValueError(f"--{name} {count} trains nothing: give at least 1")

    def plain(name: str, value: Any) -> Any:
        if name == "set":
            return settings_of(value)
        if isinstance(value, (list, tuple)):
            return [str(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return {name: plain(name, value) for name, value in arguments.items() if name not in leave_out and value is not None}


def begun_run(out: Path, asked: Mapping[str, Any]) -> Run | None:
    """The run that `out` already holds, which goes on as it was planned; of what may change it has what is asked for now.

    Raises `ValueError` when it was begun otherwise, and when `out` holds something else.
    """
    from fledge.train.run import PLAIN, Guard, may_change, read_run

    begun = read_run(out / "run", asked)
    strangers = [] if begun is not None or not out.is_dir() else [path.name for path in out.iterdir() if path.name != "run"]
    if strangers or (out.exists() and not out.is_dir()):
        raise ValueError(f"{out} exists and holds no run of fledge ({', '.join(strangers[:3]) or 'it is a file'}): choose another --out")
    if begun is None:
        return None
    plain = replace(begun, guard=Guard(), machine=replace(begun.machine, **PLAIN))
    return applied(plain, {name: value for name, value in asked.get("set", {}).items() if may_change(name)})


def within(seconds: float, reserve: float, started: float, run: Run, model: Transformer, objective: Objective, batch_at: BatchAt) -> Run:
    """The run with as many steps as fit into its time, counted from `started`, less the `reserve` for what follows them."""
    from fledge.train.plan import steps_within

    left = seconds - reserve - (time.monotonic() - started)
    steps = min(steps_within(left, run, model, objective, batch_at), run.plan.most or sys.maxsize)
    return replace(run, plan=replace(run.plan, steps=steps, seconds=seconds, reserve=reserve))


def refuse_unknown(value: str, kind: Any, flag: str) -> None:
    """Raise `ValueError` for a value that is none of a `Literal`'s; the command line has asked before, Python has not."""
    if value not in get_args(kind):
        raise ValueError(f"{flag} {value!r} is unknown{did_you_mean(value, get_args(kind))}")


def fingerprint(rows: Any) -> str:
    """SHA-256 of all that is learned from, in its order, as JSON."""
    return hashlib.sha256(json.dumps(to_json(rows)).encode()).hexdigest()


def refuse_other_data(out: Path, begun: Run, fingerprint: str) -> None:
    """Raise `ValueError` when the run in `out` was begun on data of another fingerprint than what the same names hold now."""
    if begun.data.fingerprint != fingerprint:
        raise ValueError(f"{out / 'run'} holds a run on other data, which has changed since: give the data as it was, or another --out")


@dataclass(frozen=True)
class Parent:
    """The model that another one starts from."""

    name: str
    network: Transformer
    tokenizer: Tokenizer
    facts: dict[str, Any]
    card: str = ""
    """What its own card tells of its data, as sections for the card of what is made of it."""

    @property
    def arch(self) -> Arch:
        return self.network.arch

    def with_arch(self, arch: Arch) -> Parent:
        """The same weights under settings that hold none, such as another drop-out.

        Raises `ValueError` for an `arch` that needs other weights.
        """
        from fledge.model import Transformer

        network = Transformer(arch)
        try:
            network.load_state_dict(self.network.state_dict())
        except RuntimeError:  # names or shapes
            changed = "; ".join(differences(to_json(self.arch), to_json(arch), "arch"))
            raise ValueError(
                f"{self.name} has no weights for {changed}: set what needs none, such as arch.dropout, or start afresh with --arch"
            ) from None
        return replace(self, network=network)

    @property
    def optimizer(self) -> AdamW | Muon | None:
        """What it was pretrained with, if that is known."""
        from fledge.train.run import AdamW, Muon

        told = self.facts.get("run", {}).get("optimizer")
        return None if told is None else from_json(AdamW | Muon, told, "optimizer")


def framing_for(stacks: Sequence[str], tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that frames texts as models of these stacks are used to; one that frames them already stays.

    An encoder alone reads the token that ends a text before and after it, one beside a decoder after it.
    """
    if "encoder" not in stacks or tokenizer.framed([]):
        return tokenizer
    return tokenizer.framing(opening="decoder" not in stacks, closing=True)


def open_parent(name: str | Path) -> Parent:
    """The model to start from, in fp32 (an adapter merged into its base), its weights compared with their hash where the folder holds one.

    Raises `ValueError` when they have changed since they were saved.
    """
    import torch

    from fledge.adapt.folder import folder_at, open_model, verify

    folder = folder_at(name)
    if folder.facts.get("weights"):
        verify(folder.path)
    return Parent(str(name), *open_model(folder.path, dtype=torch.float32), parent_card(str(name)))


def parent_card(name: str) -> str:
    """Of the card in a model folder the sections on its data, called after it; for a model of the hub where its card stands."""
    path = Path(name)
    if not path.is_dir():
        return f"## Data of {name}\n\nSee [its card](https://huggingface.co/{name}).\n"
    if not (path / "README.md").is_file():
        return ""
    _, *sections = re.split(r"^## (?=\S)", (path / "README.md").read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE)
    return "\n".join(
        f"## {re.sub(r'^Data(?! of )', f'Data of {path.name}', section.strip())}\n" for section in sections if section.startswith("Data")
    )


def open_worded(name: str | Path) -> Parent:
    """The model to start from, which must be one with scores for words.

    Raises `ValueError` for a classifier, and for a model without a head.
    """
    from fledge.arch import Words

    parent = open_parent(name)
    if parent.arch.labels:
        raise ValueError(f"{name} is a classifier and writes no text: start from the model that it was fine-tuned from")
    if not isinstance(parent.arch.head, Words):
        raise ValueError(f"{name} ends in {type(parent.arch.head).__name__} and has no scores for words: start from a model that has")
    return parent


def open_writer(name: str | Path) -> Parent:
    """The model to start from, which must be one that goes on from text.

    Raises `ValueError` for any other.
    """
    from fledge.train.run import named

    parent = open_worded(name)
    if len(parent.arch.stacks) == 2 or not parent.arch.writes:
        raise ValueError(
            f"{name} has {named(list(parent.arch.stacks))} and does not go on from text: start from a decoder, such as GPT-2's"
        )
    return parent


@contextmanager
def watched(title: str, out: Path, steps: int) -> Iterator[tuple[terminal.Bar, list[Hook]]]:
    """A bar, and the hooks of a training that move it and rewrite the live page of the run in `out`."""
    from fledge.train.parallel.ranks import rank
    from fledge.verbs.pages import LivePage

    page = LivePage(f"{title} {out.name}", out / "run")
    with terminal.bar("Training", steps) as bar:
        try:
            yield bar, [bar_hook(bar), page] if rank() == 0 else [bar_hook(bar)]
        except BaseException:
            page.stop()
            raise


def bar_hook(bar: terminal.Bar) -> Callable[[State], None]:
    """Moves the bar with the training."""

    def act(state: State) -> None:
        bar.to(state.step, f"loss {state.loss:.3f}", state.total)

    return act


class Every:
    """A hook that acts about every so many seconds, and first when half of them have passed."""

    def __init__(self, seconds: float, act: Callable[[State], None]):
        self.seconds, self.act = seconds, act
        self.last = time.monotonic() - seconds / 2

    def __call__(self, state: State) -> None:
        if time.monotonic() - self.last >= self.seconds:
            self.act(state)
            self.last = time.monotonic()


class Samples:
    """The same text made by the model as it is now, printed and kept, so that one watches noise turn into words.

    A `prompt` stands before it; `whole` is what a text with gaps was like before, or how its gaps are marked.
    """

    def __init__(
        self, path: Path, write: Callable[[Transformer], str], say: Callable[[str], None], prompt: str = "", whole: str | None = None
    ):
        self.path, self.write, self.say, self.prompt, self.whole = path, write, say, prompt, whole

    def show(self, state: State) -> None:
        text = self.write(state.model)
        self.say(f"  step {state.step:,}, loss {state.loss:.2f}: {self.prompt}{text}".replace("\n", "\n    "))
        row = {"step": state.step, "seconds": round(state.seconds, 1), "prompt": self.prompt, "text": text}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row if self.whole is None else {**row, "whole": self.whole}) + "\n")


def completing(tokenizer: Tokenizer, prompt: str) -> Callable[[Transformer], str]:
    """How a model goes on from a prompt."""
    from fledge.generation import Engine, Request, Sampling

    tokens = tokenizer.encode(prompt) or [tokenizer.end_of_text]
    request = Request(tokens, max_tokens=SAMPLE_TOKENS, sampling=Sampling(temperature=0.7, top_p=0.95, seed=0))
    return lambda model: Engine(model, tokenizer, capacity=len(tokens) + SAMPLE_TOKENS).run([request])[0].text


def mending(tokenizer: Tokenizer, gapped: Gapped) -> Callable[[Transformer], str]:
    """How a model fills in the gaps of a text, each between ⟦ and ⟧."""
    from fledge.generation import fill

    return lambda model: gapped.filled(fill(model, tokenizer, [gapped])[0].fills)


class ModelWriter:
    """Writes the model folder `out` while a run finds better weights, and what is known of the model into `fledge.json` and its card.

    `about`: what the card tells of the data, as Markdown, in place of what `data` says.
    """

    def __init__(
        self, out: Path, tokenizer: Tokenizer, run: Run, data: dict[str, Any], parent: Parent | None = None, chat: str | None = None,
        generation: dict[str, Any] | None = None, more: Mapping[str, Any] | None = None, about: str = "",
    ):  # fmt: skip
        self.out, self.tokenizer, self.chat, self.generation = out, tokenizer, chat, generation
        self.about = "\n".join(part for part in (about or listed(data), parent.card if parent is not None else "") if part)
        self.facts = {"run": to_json(run), "data": data, "parent": _origin(parent), **(more or {})}

    def export(self, snapshot: Snapshot, scores: Mapping[str, Any]) -> None:
        """What `train` calls with each new best."""
        self.save(snapshot.model, scores)

    def save(self, model: Transformer, scores: Mapping[str, Any]) -> None:
        from fledge.weights import save_model

        facts = {**self.facts, "scores": dict(scores)}
        save_model(self.out, model, self.tokenizer, self.chat, facts, self.generation, card(self.out.name, model.arch, facts, self.about))

    def standing(self) -> dict[str, Any]:
        """What the folder tells of itself now."""
        return json.loads((self.out / "fledge.json").read_text(encoding="utf-8"))

    def best(self, device: str) -> Transformer:
        """The best model so far, read back from its folder."""
        from fledge.weights import open_model

        return open_model(self.out, device=device)[0]


def _origin(parent: Parent | None) -> dict[str, Any] | None:
    return None if parent is None else {"name": parent.name, "weights": parent.facts.get("weights"), "scores": parent.facts.get("scores")}


def listed(data: Mapping[str, Any]) -> str:
    """The numbers and texts of `data` as a section of a card."""
    lines = (f"- {key.replace('_', ' ')}: {value}" for key, value in data.items() if isinstance(value, (int, float, str)))
    return "\n".join(["## Data", "", *lines, ""])


def card(name: str, arch: Arch, facts: Mapping[str, Any], about: str) -> str:
    """README.md of a model folder: what it is, what it was trained on (`about`) and how, how good it is."""
    stack, run = arch.trunk, facts["run"]
    parent = facts.get("parent")
    lines = [
        f"# {name}", "",
        f"A transformer of {parameter_count(arch):,} parameters (width {stack.width}, depth {stack.depth}, context {arch.context:,}), "
        + (f"fine-tuned from {parent['name']}" if parent else "trained from random weights") + " with fledge.", "",
        about,
        "## Training", "", *(f"- {part}: `{json.dumps(run[part])}`" for part in ("batch", "optimizer", "schedule", "plan", "machine")), "",
        "## Scores", "", *(f"- {key.replace('_', ' ')}: {json.dumps(value)}" for key, value in facts["scores"].items()), "",
    ]  # fmt: skip
    return "\n".join(lines)


def command() -> str:
    """How this program is called here, for commands that can be pasted."""
    program = Path(sys.argv[0])
    if program.name != "fledge":
        return "fledge"
    try:
        return str(program.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(program)
