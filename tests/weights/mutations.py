"""Folders of transformers, changed in one place each, and what the refusal of each must name."""

import ctypes
import json
import os
import random
import re
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fledge.weights.families import FAMILIES
from fledge.weights.folder import open_model
from tests.weights import references
from tests.weights.references import TOKENIZER, make

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CASES = [case for case in references.CASES if " " not in case or case in ("qwen3 tied", "qwen3 moe", "t5 1.1", "phi3 long")]
TIED = [case for case in CASES if case not in ("minilm", "electra")]  # those with scores for words
OUTSIDE = "outside"  # the folder beside, in which nothing may be opened
IN_OPEN, IN_NONBLOCK = 0x20, 0o4000  # <sys/inotify.h>


class Bases:
    """The untouched folder of each case, whole and in shards, made once."""

    def __init__(self, root: Path):
        self.root = root
        self.made = cache(self._made)

    def _made(self, case: str, sharded: bool) -> Path:
        folder = self.root / f"{case.replace(' ', '-')}-{'shards' if sharded else 'whole'}"
        make(case).save_pretrained(folder, max_shard_size="20KB" if sharded else "1GB")
        TOKENIZER.save(folder)
        return folder


Mutation = Callable[[Path, random.Random], str]


def _index(folder: Path) -> dict:
    return json.loads((folder / INDEX).read_text())


def _family(folder: Path):
    return FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]]


def _tensors(change: Callable[[dict[str, torch.Tensor], str, random.Random], str]) -> Mutation:
    def mutate(folder: Path, dice: random.Random) -> str:
        found = load_file(folder / WHOLE)
        # without these it is another model, and whole
        optional = {*_family(folder).REPEATS, "final_logits_bias", "pooler.dense.weight"}
        said = change(found, dice.choice(sorted(set(found) - optional)), dice)
        save_file(found, folder / WHOLE, {"format": "pt"})
        return said

    return mutate


def _shape(found: dict[str, torch.Tensor], name: str, dice: random.Random) -> str:
    tensor = found[name]
    found[name] = dice.choice([torch.cat((tensor, tensor[:1])), tensor[:-1].clone(), tensor[None], tensor.flatten()[:1]])
    return re.escape(name)


def _dtype(found: dict[str, torch.Tensor], name: str, dice: random.Random) -> str:
    found[name] = found[name].to(dice.choice([torch.int64, torch.int8, torch.bool, torch.float16, torch.bfloat16, torch.float64]))
    return re.escape(name)


def _missing(found: dict[str, torch.Tensor], name: str, dice: random.Random) -> str:
    del found[name]
    return re.escape(name)


def _extra(found: dict[str, torch.Tensor], name: str, dice: random.Random) -> str:
    more = dice.choice([name + "_more", "more." + name, name.replace("weight", "scale") + "s"])
    found[more] = found[name].clone()
    return re.escape(more)


def _renamed(found: dict[str, torch.Tensor], name: str, dice: random.Random) -> str:
    other = dice.choice([name.replace(".", "_"), name.upper(), name + ".1"])
    found[other] = found.pop(name)
    return f"{re.escape(name)}|{re.escape(other)}"


def _tied(folder: Path, dice: random.Random) -> str:
    """A copy of the embedding that should be the same, and is another."""
    found, repeats = load_file(folder / WHOLE), _family(folder).REPEATS
    told_by_names = {"lm_head.weight"} if "shared.weight" in found else set()  # T5: there it is a head of its own
    names = [name for name, original in repeats.items() if original in found and name not in {*found, *told_by_names}]
    if not names:  # an untied model whose head has gone
        del found["lm_head.weight"]
        save_file(found, folder / WHOLE, {"format": "pt"})
        return r"lm_head\.weight"
    name = dice.choice(names)
    found[name] = found[repeats[name]].clone()
    found[name].view(-1)[dice.randrange(found[name].numel())] += 1
    save_file(found, folder / WHOLE, {"format": "pt"})
    return re.escape(name)


def _vocabulary(folder: Path, dice: random.Random) -> str:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + dice.choice([-64, -1, 1, 64])}))
    return "embed|shared|wte|tokenizer has"


def _lying_header(folder: Path, dice: random.Random) -> str:
    path = folder / WHOLE
    contents = path.read_bytes()
    length = int.from_bytes(contents[:8], "little")
    header = json.loads(contents[8 : 8 + length])
    name = dice.choice(sorted(set(header) - {"__metadata__"}))
    kind = dice.choice(["length", "offsets", "overlap", "shape", "cut"])
    if kind == "length":
        lie = dice.choice([0, 2**63, 10**9, len(contents), length - 1])
        path.write_bytes(struct.pack("<Q", lie) + contents[8:])
        return WHOLE
    if kind == "cut":
        path.write_bytes(contents[: dice.randrange(8 + length, len(contents))])
        return WHOLE
    if kind == "offsets":
        header[name]["data_offsets"][1] += dice.choice([4, 2**40])
    elif kind == "overlap":
        header[name]["data_offsets"] = header[dice.choice(sorted(set(header) - {"__metadata__", name}))]["data_offsets"]
    else:
        header[name]["shape"] = [2 * size for size in header[name]["shape"]]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + contents[8 + length :])
    return WHOLE


def _leads_out(*ways: str) -> Mutation:
    """The index names a file that lies elsewhere; a good copy of the shard waits there."""

    def mutate(folder: Path, dice: random.Random) -> str:
        index = _index(folder)
        tensor = dice.choice(sorted(index["weight_map"]))
        outside = folder.parent / OUTSIDE / "outside.safetensors"
        shutil.copy(folder / index["weight_map"][tensor], outside)
        file = dice.choice(ways).format(outside=outside, name=outside.name, folder=folder.name)
        index["weight_map"][tensor] = file
        (folder / INDEX).write_text(json.dumps(index))
        return re.escape(repr(file))

    return mutate


def _symlink(folder: Path, dice: random.Random) -> str:
    file = dice.choice(sorted(set(_index(folder)["weight_map"].values())))
    outside = folder.parent / OUTSIDE / "outside.safetensors"
    shutil.move(folder / file, outside)
    (folder / file).symlink_to(dice.choice([outside, Path("..") / OUTSIDE / outside.name]))
    return re.escape(file)


def _no_place(folder: Path, dice: random.Random) -> str:
    index = _index(folder)
    tensor = dice.choice(sorted(index["weight_map"]))
    del index["weight_map"][tensor]
    (folder / INDEX).write_text(json.dumps(index))
    return re.escape(tensor)


def _wrong_place(folder: Path, dice: random.Random) -> str:
    index = _index(folder)
    tensor = dice.choice(sorted(index["weight_map"]))
    index["weight_map"][tensor] = dice.choice(sorted(set(index["weight_map"].values()) - {index["weight_map"][tensor]}))
    (folder / INDEX).write_text(json.dumps(index))
    return re.escape(tensor)


def _no_shard(folder: Path, dice: random.Random) -> str:
    file = dice.choice(sorted(set(_index(folder)["weight_map"].values())))
    (folder / file).unlink()
    return re.escape(file)


def _pickle(folder: Path, dice: random.Random) -> str:
    name = dice.choice(["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
    (folder / WHOLE).unlink()
    torch.save({"weight": torch.ones(2)}, folder / name)
    return re.escape(name) + ", a pickle"


WHOLE_KINDS: dict[str, Mutation] = {
    "shape": _tensors(_shape),
    "dtype": _tensors(_dtype),
    "missing": _tensors(_missing),
    "extra": _tensors(_extra),
    "renamed": _tensors(_renamed),
    "tied": _tied,
    "vocabulary": _vocabulary,
    "lying header": _lying_header,
    "pickle": _pickle,
}
SHARDED_KINDS: dict[str, Mutation] = {
    "parent": _leads_out("../outside/{name}", "a/../../outside/{name}", "..", "../{folder}/config.json"),
    "absolute": _leads_out("{outside}", "//{outside}"),
    "symlink": _symlink,
    "URL": _leads_out("https://example.org/{name}", "file://{outside}", "hf://someone/{name}"),
    "backslash": _leads_out("..\\outside\\{name}", "C:\\{name}"),
    "not in the index": _no_place,
    "another shard": _wrong_place,
    "missing shard": _no_shard,
}
KINDS = {**WHOLE_KINDS, **SHARDED_KINDS}


@contextmanager
def opened_within(folder: Path) -> Iterator[list[str]]:
    """The paths that anything in this process opens in a folder: Linux tells (inotify), for libraries in Rust raise no audit event."""
    seen: list[str] = []
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(IN_NONBLOCK)
    libc.inotify_add_watch(watch, str(folder).encode(), IN_OPEN)
    try:
        yield seen
        while True:
            try:
                events = os.read(watch, 4096)
            except BlockingIOError:
                break
            seen += re.findall(r"[\w.-]+\.\w+", events.decode("latin-1"))
    finally:
        os.close(watch)


class Audit:
    """What Python itself opens while `on`; a hook cannot be taken away again."""

    def __init__(self):
        self.on, self.paths = False, list[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if self.on and event == "open" and isinstance(arguments[0], str | bytes):
            self.paths.append(os.fsdecode(arguments[0]))
        if self.on and event in ("pickle.find_class", "socket.connect"):
            self.paths.append(event)

    @contextmanager
    def heard(self) -> Iterator[list[str]]:
        self.paths, self.on = [], True
        try:
            yield self.paths
        finally:
            self.on = False


def try_one(bases: Bases, room: Path, audit: Audit, kind: str, seed: int) -> str | None:
    """Change a fresh copy and open it; what was wrong with how it was refused, or None."""
    dice = random.Random(f"{kind} {seed}")
    sharded = kind in SHARDED_KINDS or (kind == "untouched" and seed % 2 == 1)
    case = dice.choice(TIED if kind == "tied" else CASES)
    folder, outside = room / "model", room / OUTSIDE
    shutil.rmtree(room, ignore_errors=True)
    outside.mkdir(parents=True)
    shutil.copytree(bases.made(case, sharded), folder)
    said = KINDS[kind](folder, dice) if kind in KINDS else ""
    refusal: Exception | None = None
    with audit.heard() as paths, opened_within(outside) as touched:
        try:
            open_model(folder)
        except (ValueError, FileNotFoundError) as refused:
            refusal = refused
    strayed = [path for path in paths if str(room) in path and not Path(path).resolve().is_relative_to(folder.resolve())]
    strayed += [path for path in paths if path in ("pickle.find_class", "socket.connect")] + touched
    if strayed:
        return f"{kind} {seed} ({case}): opened {strayed}"
    if kind == "untouched":
        return None if refusal is None else f"{kind} {seed} ({case}): refused with {refusal}"
    if refusal is None:
        return f"{kind} {seed} ({case}): opened, where {said} should be refused"
    return None if re.search(said, str(refusal)) else f"{kind} {seed} ({case}): {refusal} does not name {said}"
