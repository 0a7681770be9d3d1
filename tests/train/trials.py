"""Trials of training runs that are stopped, killed, damaged or poisoned, by kind and seed; each gives a complaint or None.

A small share of them are tests (test_faults.py), all of them campaigns (benchmarks/campaigns.py).
"""

import errno
import hashlib
import random
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fledge.arch import Classes
from fledge.data.batches import Batch as Examples
from fledge.data.batches import Conversations, Pairs, Windows
from fledge.data.corpus import Shards
from fledge.data.framing import Frames, LabelledTexts
from fledge.data.noise import Denoise, MaskedWords
from fledge.model import Transformer, initialise
from fledge.presets import modernbert, qwen3, t5
from fledge.text.chat import Turns
from fledge.text.tokenizer import Tokenizer
from fledge.train import checkpoint
from fledge.train.loop import NotFinite, State
from fledge.train.objective import Classify, Objective, PredictTokens
from fledge.train.parallel import ranks
from fledge.train.parallel.spread import spread_of
from fledge.train.run import Batch, Data, Guard, Machine, Masks, Plan, Run, Save, Spans, Stable, read_run, write_run
from fledge.train.training import train, validate
from tests.faults import Child, Trial, flip, limit_files, may_mount, small_disk, swap, truncate
from tests.train.ranks import on_ranks
from tests.train.toy import OPTIMIZERS, Toy, a_run, go

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
Tell = Callable[[Any], None]


def different(one: Path, other: Path, step: int) -> int:
    """The bits in which the weights and optimiser states of two runs differ after `step` steps."""
    bits, places = 0, [folder / "run" / f"step-{step}" for folder in (one, other)]
    names = {path.name for place in places for path in place.glob("*.safetensors")}
    assert names, f"there is no checkpoint of step {step}"
    for name in names:
        a, b = (np.fromfile(place / name, np.uint8) for place in places)
        bits += 8 * abs(a.size - b.size) if a.size != b.size else int(np.bitwise_count(a ^ b).sum())
    return bits


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tensors_of(state: State) -> dict[str, Tensor]:
    """Weights and optimiser states, as far as they lie on this rank."""
    held = spread_of(state.model).held(state.model)
    return {**held, **{f"{name} of the optimiser": tensor for name, tensor in state.optimizer.tensors().items()}}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of names and bits."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def crash_at(step: int) -> Callable[[State], None]:
    def hook(state: State) -> None:
        if state.step == step:
            raise RuntimeError(f"crashed at step {step}")

    return hook


def begun(folder: Path, run: Run, step: int) -> None:
    """Train until `step` and crash before it is saved."""
    try:
        go(run, folder, evaluate=None, after_step=[crash_at(step)])
    except RuntimeError:
        return
    raise AssertionError("it did not crash")


class Damage(Trial):
    """The newest checkpoints are damaged: each is named, the newest good one is used and named, and the run ends as it would have."""

    KINDS = ("bit flipped", "truncated", "missing", "files swapped", "files of two checkpoints swapped", "checkpoints swapped")

    def __init__(self, root: Path):
        super().__init__(root)
        self.run = a_run(steps=4, save_steps=1, keep=3)
        begun(root / "begun", self.run, 4)  # before its checkpoint
        go(self.run, root / "whole", evaluate=None)

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        shutil.copytree(self.root / "begun", self.room)
        damaged, heard = self.damage(kind, dice), list[str]()
        go(self.run, self.room, evaluate=None, say=heard.append)
        named = [step for step in (3, 2, 1) if any(f"step-{step} is broken" in line for line in heard)]
        used = [step for step in (3, 2, 1) if any(line.startswith(f"Going on from {self.room / 'run'}/step-{step}:") for line in heard)]
        if named != damaged or used != [3 - len(damaged)]:
            return f"{damaged} were damaged, but it said {heard}"
        bits = different(self.room, self.root / "whole", 4)
        return f"{bits} bits differ at the end" if bits else None

    def damage(self, kind: str, dice: random.Random) -> list[int]:
        newest, older = (self.room / "run" / f"step-{step}" for step in (3, 2))
        name, another = dice.sample(FILES, 2)
        match kind:
            case "bit flipped":
                flip(newest / name, dice)
            case "truncated":
                truncate(newest / name, dice)
            case "missing":
                (newest / name).unlink()
            case "files swapped":
                swap(newest / name, newest / another)
            case "files of two checkpoints swapped":
                swap(newest / name, older / name)
                return [3, 2]
            case "checkpoints swapped":
                swap(newest, older)
                return [3, 2]
            case _:
                return []
        return [3]


@dataclass(frozen=True)
class Poison:
    """A value that is not finite, for the loss or one number of one gradient of one micro-batch of one batch on one rank."""

    batch: int
    part: int
    value: float
    tensor: str | None
    place: int
    rank: int = 0

    @property
    def named(self) -> str:
        if self.tensor is None:
            return f"the loss of micro-batch {self.part + 1} of 2 is {self.value}"
        return f"the gradient of {self.tensor} is not finite"


class Poisoned(PredictTokens):
    """Poisons what it is asked for, and is the batches too, so that it knows which one that is."""

    def __init__(self, poison: Poison):
        super().__init__()
        self.poison, self.batch, self.part = poison, -1, -1

    def batch_at(self, step: int, place: int = 0, places: int = 1) -> list[Examples]:
        self.batch, self.part = step, -1
        return Toy().batch_at(step, place, places)

    def __call__(self, model: Transformer, batch: Examples) -> Tensor:
        poison = self.poison
        self.part += model.training
        if not model.training or (self.batch, self.part, ranks.rank()) != (poison.batch, poison.part, poison.rank):
            return super().__call__(model, batch)
        if poison.tensor is None:
            return super().__call__(model, batch) + poison.value
        owner = poison.tensor.rpartition(".")[0]
        caller = owner.removesuffix(".q_norm").removesuffix(".k_norm")  # whose weights are read there, and they are not called

        def look(*_: Any) -> None:
            """Here the weight is the whole one, whose gradient other ranks' gradients are yet to be added to."""
            seen.remove()
            hook = model.get_parameter(poison.tensor or "").register_hook(lambda gradient: spoil(gradient, hook))

        def spoil(gradient: Tensor, hook: Any) -> Tensor:
            hook.remove()
            gradient = gradient.clone()
            gradient.view(-1)[poison.place % gradient.numel()] = poison.value
            return gradient

        seen = model.get_submodule(caller).register_forward_pre_hook(look)
        return super().__call__(model, batch)


@dataclass(frozen=True)
class Told:
    """How a run ended on one rank: what it said, after which step, and the digests of weights and optimiser after each step."""

    said: str
    step: int
    last: str
    digests: dict[int, str]


def gone(run: Run, folders: list[Path], poison: Poison | None = None) -> list[Told]:
    """Train in one folder after the other; with a poison in the first of them."""
    return [told_of(run, folder, poison if number == 0 else None) for number, folder in enumerate(folders)]


def told_of(run: Run, folder: Path, poison: Poison | None) -> Told:
    seen, digests, said = list[State](), dict[int, str](), ""
    world = (Toy(), PredictTokens()) if poison is None else (poisoned := Poisoned(poison), poisoned)

    def look(state: State) -> None:
        digests[state.step] = digest(tensors_of(state))
        seen[:] = [state]

    try:
        go(run, folder, *world, evaluate=None, after_step=[look])
    except NotFinite as told:
        said = str(told)
    return Told(said, seen[-1].step, digest(tensors_of(seen[-1])), digests)


class Poisoning(Trial):
    """A loss or gradient that is not finite reaches neither weights nor optimiser nor checkpoints; the run stops and tells, or skips it.

    On the second of two ranks it reaches those of neither.
    """

    KINDS = tuple(
        f"{what} {value}, {guard}{where}"
        for where, what, value, guard in product(
            ("", ", on rank 1 of 2"), ("loss", "gradient"), ("nan", "inf", "-inf"), ("stop", "skip")
        )
    )  # fmt: skip
    STEPS = 6

    def __init__(self, root: Path):
        super().__init__(root)
        self.run = a_run(steps=self.STEPS, save_steps=2, keep=self.STEPS)
        self.names = [name for name, _ in Transformer(self.run.arch).named_parameters()]

    @cache  # noqa: B019  (as long as the trial)
    def whole(self, count: int) -> tuple[Path, list[Told]]:
        """A run on so many ranks that nothing disturbed."""
        folder = self.root / f"whole-{count}"
        return folder, self.on(count, self.run, [folder])[0]

    def on(self, count: int, run: Run, folders: list[Path], poison: Poison | None = None) -> list[list[Told]]:
        """By folder what each rank told."""
        if count == 1:
            return [[told] for told in gone(run, folders, poison)]
        return [list(told) for told in zip(*on_ranks(count, gone, run, folders, poison), strict=True)]

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        if kind == "untouched":
            count = 1 + seed % 2
            self.on(count, self.run, [self.room])
            return self.differs(self.room, self.whole(count)[0], self.STEPS)
        what, value, guard, where = re.fullmatch(r"(\w+) ([\w-]+), (\w+)(.*)", kind).groups()  # pyrefly: ignore[missing-attribute]
        tensor, count = dice.choice(self.names) if what == "gradient" else None, 2 if where else 1
        poison = Poison(dice.randrange(1, self.STEPS), dice.randrange(2), float(value), tensor, dice.randrange(10**6), count - 1)
        return self.stops(poison, count) if guard == "stop" else self.skips(poison, count)

    def stops(self, poison: Poison, count: int) -> str | None:
        """It says why, with everything as it was, and goes on from there as if nothing had been."""
        whole, undisturbed = self.whole(count)
        stopped, _ = self.on(count, self.run, [self.room, self.room], poison)
        for told, other in zip(stopped, undisturbed, strict=True):
            if not told.said.startswith(f"step {poison.batch}: ") or poison.named not in told.said:
                return f"it said {told.said!r}"
            if told.step != poison.batch or told.last != other.digests[told.step]:
                return "weights or optimiser have changed"
        steps = checkpoint.saved_steps(self.room / "run")
        return next((wrong for step in steps if (wrong := self.differs(self.room, whole, step))), None)

    def skips(self, poison: Poison, count: int) -> str | None:
        """It ends like a run that was planned without the batch."""
        self.on(count, replace(self.run, guard=Guard(not_finite="skip")), [self.room], poison)
        kept = read_run(self.room / "run")
        if kept is None or kept.plan.skips != ((poison.batch, 1),):
            return f"its plan is {kept and kept.plan}"
        planned = self.root / "planned"
        shutil.rmtree(planned, ignore_errors=True)
        (planned / "run").mkdir(parents=True)
        write_run(planned / "run", replace(self.run, plan=kept.plan))
        self.on(count, self.run, [planned])
        return self.differs(self.room, planned, self.STEPS)

    def differs(self, one: Path, other: Path, step: int) -> str | None:
        bits = different(one, other, step)
        return f"{bits} bits differ in the checkpoint of step {step}" if bits else None


def save_alone(tell: Tell, folder: Path, most: int) -> None:
    """Save one checkpoint after the other, telling of each when it begins and when it is done."""
    for step in range(1, most + 1):
        tell(("begin", step))
        full = torch.full((300, 100), float(step))
        checkpoint.save(folder / "run", step, {"w": full}, {"w/exp_avg": full, "w/exp_avg_sq": full + 1}, {"tokens": step})
        checkpoint.prune(folder / "run", 2)
        tell(("end", step))


def save_while_training(tell: Tell, folder: Path, most: int) -> None:
    """Train so many steps with a save after each, telling of each when it begins and when it is done."""
    save = checkpoint.save

    def told(place: Path, step: int, *rest: Any) -> Path:
        tell(("begin", step))
        path = save(place, step, *rest)
        tell(("end", step))
        return path

    checkpoint.save = told  # pyrefly: ignore[bad-assignment]  (in a process of its own)
    go(a_run(steps=most, save_steps=1), folder, evaluate=None)


class Saves(Trial):
    """A process is killed inside a save: what was committed before is whole, and so is the next save."""

    KINDS = ("alone", "while training")
    STEPS = 12

    def __init__(self, root: Path):
        super().__init__(root)
        self.digests: dict[int, str] = {}
        hook = [lambda s: self.digests.update({s.step: digest(s.model.state_dict())})]
        go(a_run(steps=self.STEPS, save_steps=1), root / "whole", evaluate=None, after_step=hook)

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        alone = kind == "alone" or (kind == "untouched" and seed % 2 == 0)
        work = save_alone if alone else save_while_training
        while True:
            shutil.rmtree(self.room, ignore_errors=True)
            (self.room / "run").mkdir(parents=True)
            with Child(work, self.room, self.STEPS) as child:
                told, least = [], 1 + dice.randrange(4)
                if kind == "untouched":
                    told = child.end()[1]
                else:
                    while sum(what == "begin" for what, _ in told) < least:
                        told.append(child.hear())
                    told += child.end(signal.SIGKILL, dice.uniform(0, 0.004))[1]
            begun, ended = ([step for what, step in told if what == wanted] for wanted in ("begin", "end"))
            if len(begun) > len(ended) or kind == "untouched":
                return self.lost(ended[-1] if ended else 0, begun[-1], alone)

    def lost(self, committed: int, newest: int, alone: bool) -> str | None:
        place, heard = self.room / "run", list[str]()
        found = checkpoint.newest_good(place, heard.append)
        if committed and (found is None or not committed <= found.step <= newest):
            return f"{committed} saves were committed, but the newest good one is {found and found.step}"
        broken = [f"step-{step}: {fault}" for step in checkpoint.saved_steps(place) if (fault := checkpoint.broken(place / f"step-{step}"))]
        if heard or broken:
            return f"broken: {heard} {broken}"
        if len(checkpoint.saved_steps(place)) < min(2, committed):
            return f"{checkpoint.saved_steps(place)} are left of {committed}"
        if found is not None:
            whole = bool((found.weights["w"] == found.step).all()) if alone else digest(found.weights) == self.digests[found.step]
            if not whole:
                return f"step-{found.step} holds other weights"
        checkpoint.save(place, 1000, {}, {}, {})
        checkpoint.prune(place, 2)
        left = [path.name for path in place.glob(f"*{checkpoint.UNFINISHED}")]
        return f"{left} are left" if left else None


def go_on_with_little_room(tell: Tell, run: Run, folder: Path, limit: int | None) -> None:
    if limit is not None:
        limit_files(limit)
    try:
        go(run, folder, evaluate=None)
    except OSError as refused:
        tell((type(refused).__name__, refused.errno, str(refused)))


class FullDisk(Trial):
    """A disk that is full at some level of a save: the older checkpoint stays, the bytes needed are said, and with room it goes on."""

    KINDS = ("small disk", "file limit") if may_mount() else ("file limit",)
    LEVELS = 25

    def __init__(self, root: Path):
        super().__init__(root)
        self.run = a_run(steps=6, save_steps=2, keep=1)
        begun(root / "begun", self.run, 3)
        go(self.run, root / "whole", evaluate=None)
        sizes = {path.name: path.stat().st_size for path in (root / "begun" / "run" / "step-2").iterdir()}
        self.largest, self.all = max(sizes.values()), sum(sizes.values())
        found = checkpoint.newest_good(root / "begun" / "run", print)
        assert found is not None
        self.needed = checkpoint.bytes_of(found.weights, found.optimizer)

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        level = (seed % self.LEVELS + dice.random()) / self.LEVELS  # each has its own share of the scale
        if kind == "small disk":
            with small_disk(self.room) as leave:
                shutil.copytree(self.root / "begun", self.room, dirs_exist_ok=True)
                leave(int(level * self.all))
                return self.tried(None, lambda: leave(None))
        shutil.copytree(self.root / "begun", self.room)
        return self.tried(int(level * self.largest) if kind == "file limit" else None, lambda: None, kind == "untouched")

    def tried(self, limit: int | None, make_room: Callable[[], None], fits: bool = False) -> str | None:
        with Child(go_on_with_little_room, self.run, self.room, limit) as child:
            code, told = child.end()
        if not fits:
            if code or len(told) != 1 or told[0][:2] != ("NoRoom", errno.ENOSPC):
                return f"it ended with {code} and {told}"
            said = re.search(r"needs (?:at least )?([\d,]+) bytes", told[0][2])
            if said is None or int(said[1].replace(",", "")) != self.needed:
                return f"{self.needed:,} bytes were needed, but it said {told[0][2]}"
            names = {path.name for path in (self.room / "run").glob("step-*")}
            if names != {"step-2"} or contents(self.room / "run" / "step-2") != contents(self.root / "begun" / "run" / "step-2"):
                return f"{names} are left, and the old one may have changed"
        make_room()
        go(self.run, self.room, evaluate=None)
        return f"{bits} bits differ at the end" if (bits := different(self.room, self.root / "whole", 6)) else None


OBJECTIVES = ("next-word", "masked-word", "pairs", "classify", "instruct")
TEXT = "A sparrow sat on the mill wheel, singing; 12 geese flew over it.\n"


@cache
def world(objective: str, dtype: str, strict: int = 0) -> tuple[Run, Any, Objective]:
    """A tiny run of an objective with drop-out, its batches, and what it is trained for; with `strict` threads it is deterministic and
    takes the kernels, as real ones do."""
    words, context, rows, accumulate = Tokenizer.bytes(), 24, 3, 2
    shape = {"vocabulary": words.size, "context": context, "dropout": 0.1}
    arch, both = (
        qwen3(32, 1, head_size=16, mlp=48, **shape),
        t5(32, 1, head_size=16, mlp=48, gated=True, tied=False, start=words.end_of_text, **shape),
    )
    noise = {"masked-word": Masks(), "denoise": Spans()}.get(objective)
    data, judge = Data(objective=objective, noise=noise), PredictTokens()  # pyrefly: ignore[bad-argument-type]
    tokens = np.array([*words.encode(TEXT), words.end_of_text])
    shards = Shards([tokens], [np.array([[0, len(TEXT)]])])
    texts = [TEXT[i : i + 5 + i % 11] for i in range(20)]
    match objective:
        case "next-word":
            batches: Any = Windows(shards, context, rows, 1, False, accumulate)
        case "masked-word":
            arch = modernbert(32, 1, 2, 48, **shape)
            batches = MaskedWords(shards, words, context, rows, 1, False, accumulate)
        case "pairs":
            arch = both
            batches = Pairs(texts, [text[::-1] for text in texts], words, words.end_of_text, context, rows, 1, accumulate)
        case "denoise":
            arch = both
            batches = Denoise(shards, words, words.end_of_text, context, rows, 1, accumulate)
        case "classify":
            arch, judge = replace(arch, head=Classes(("a", "b", "c"))), Classify([1.0, 2.0, 0.5])
            batches = LabelledTexts(Frames(texts, words, context, "windows"), np.arange(20) % 3, rows, 1, accumulate)
        case _:
            turns = [Turns(encoded := words.encode(text), [i > 3 for i in range(len(encoded))]) for text in texts]
            batches = Conversations(turns, context, rows, 1, accumulate)
    optimizer = OPTIMIZERS["adamw" if objective in ("classify", "masked-word") else "muon"]
    machine = Machine("cpu", dtype, strict or 1, strict > 0, 0, strict > 0)  # pyrefly: ignore[bad-argument-type]
    run = Run(
        arch, data, Batch(rows, accumulate, context), optimizer, Stable(warmup=3), Plan(Resume.STEPS), Save(steps=3, evaluate=5), machine
    )  # fmt: skip
    return run, batches, judge


def train_world(tell: Tell, objective: str, dtype: str, folder: Path, strict: int = 0) -> None:
    """Train a world in `folder` or go on with it, telling of each step."""
    run, batches, judge = world(objective, dtype, strict)
    held_out = batches.batch_at(1000)
    train(
        run, initialise(Transformer(run.arch)), batches, judge, folder, say=lambda line: None,
        evaluate=lambda model: validate(model, judge, held_out, run.machine), after_step=[lambda state: tell(state.step)],
    )  # fmt: skip


class Resume(Trial):
    """A run is stopped at random moments, once or five times, and ends with the bits of one that was not."""

    KINDS = tuple(
        f"{objective}, {dtype}, {number.name}, {often}"
        for objective, dtype, number, often in product(
            OBJECTIVES, ("float32", "bfloat16"), (signal.SIGINT, signal.SIGTERM, signal.SIGKILL), ("once", "five times")
        )
    )
    STEPS = 18

    def whole(self, objective: str, dtype: str) -> Path:
        """The folder of a run that nothing stopped."""
        folder = self.root / f"{objective} {dtype}"
        if not folder.exists():
            self.ended(objective, dtype, folder)
        return folder

    def ended(self, objective: str, dtype: str, folder: Path) -> None:
        with Child(train_world, objective, dtype, folder) as child:
            code, told = child.end()
            assert code == 0, told

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        if kind == "untouched":
            objective, dtype = OBJECTIVES[seed % 5], ("float32", "bfloat16")[seed // 5 % 2]
        else:
            objective, dtype, name, often = kind.split(", ")
            if wrong := self.stopped(objective, dtype, signal.Signals[name], 5 if often == "five times" else 1, dice):
                return wrong
        self.ended(objective, dtype, self.room)
        bits = different(self.room, self.whole(objective, dtype), self.STEPS)
        return f"{bits} bits differ" if bits else None

    def stopped(self, objective: str, dtype: str, number: signal.Signals, times: int, dice: random.Random) -> str | None:
        """Stop it so many times before its end; what was wrong about how it ended then."""
        for _ in range(times):
            with Child(train_world, objective, dtype, self.room) as child:
                heard = [child.hear() for _ in range(dice.randint(1, 15 // times))]
                code, told = child.end(number, dice.uniform(0, 0.01))
            if code == (-number if number == signal.SIGKILL else 128 + number):
                continue
            if code != 0 and self.STEPS not in told:
                return f"{number.name} ended it with {code}: {heard + told}"
            shutil.rmtree(self.room)  # it was faster than the signal
            return self.stopped(objective, dtype, number, times, dice)
        return None


TRIALS: dict[str, type[Trial]] = {"damage": Damage, "not_finite": Poisoning, "saves": Saves, "full_disk": FullDisk, "resume": Resume}
