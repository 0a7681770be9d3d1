"""Checkpoints that survive: a folder of safetensors and JSON, its manifest written last, put in place by one rename."""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fledge.data.files import sync
from fledge.train.parallel.spread import Alone, Part

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"
KINDS = ("weights", "optimizer")
NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, one's share of it, the size that a file may have


class NoRoom(OSError):
    """The disk is full, or nobody may write more on it; the sentence says how many bytes a checkpoint needs."""


class Stored(Mapping[str, Tensor]):
    """Tensors by name, read when asked for, from one file or from several of which each holds parts of them.

    The header of a file of parts says under `parts` the shape of each whole tensor and where the part begins.
    """

    def __init__(self, files: Sequence[Path]):
        self._open = [safe_open(file, framework="pt") for file in files]
        self._parts: dict[str, list[tuple[int, Part]]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for number, file in enumerate(self._open):
            told = json.loads((file.metadata() or {}).get("parts", "{}"))
            for name in file.keys():  # noqa: SIM118 (a safe_open handle is no dictionary)
                lengths = file.get_slice(name).get_shape()
                shape, starts = told.get(name, (lengths, [0] * len(lengths)))
                self.shapes[name] = tuple(shape)
                places = tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))
                self._parts.setdefault(name, []).append((number, places))

    def part(self, name: str, wanted: Part) -> Tensor:
        """A part of a tensor, put together from the parts that lie in the files; no more of them is read."""
        if not wanted:
            return self._open[self._parts[name][0][0]].get_tensor(name)
        made = None
        for number, held in self._parts[name]:
            common = [slice(max(w.start, h.start), min(w.stop, h.stop)) for w, h in zip(wanted, held, strict=True)]
            if all(c.start < c.stop for c in common):
                here = self._open[number].get_slice(name)[
                    tuple(slice(c.start - h.start, c.stop - h.start) for c, h in zip(common, held, strict=True))
                ]
                made = here.new_empty([w.stop - w.start for w in wanted]) if made is None else made
                made[tuple(slice(c.start - w.start, c.stop - w.start) for c, w in zip(common, wanted, strict=True))] = here
        return torch.empty([w.stop - w.start for w in wanted]) if made is None else made

    def parts(self, spread: Alone) -> dict[str, Tensor]:
        """What of each tensor lies on this rank."""
        return {name: self.part(name, spread.part(owner(name)) if shape else ()) for name, shape in self.shapes.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.part(name, tuple(slice(0, length) for length in self.shapes[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def owner(name: str) -> str:
    """The parameter that a tensor belongs to: itself, or of the optimiser's state the one before the stroke."""
    return name.partition("/")[0]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: `weights` and `optimizer` by name, `facts` as saved."""

    path: Path
    step: int
    weights: Stored
    optimizer: Stored
    facts: dict


def save(
    folder: Path, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], facts: dict, spread: Alone | None = None
) -> Path:
    """Write `folder/step-N`; it is there whole or not at all, and nothing older is touched.

    Of a `spread` model each rank gives and writes what it holds, all at once; rank 0 writes the manifest when all are done.
    Raises `NoRoom` with the bytes needed when the disk is full, `OSError` when it refuses otherwise, on every rank.
    """
    spread = spread or Alone({})
    final, new = folder / f"step-{step}", folder / f"step-{step}{UNFINISHED}"
    needed = bytes_of(weights, optimizer)

    def prepare() -> None:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise NoRoom(errno.ENOSPC, f"a checkpoint needs {needed:,} bytes and {free:,} are free", str(final))
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()

    def write() -> dict:
        return dict(
            _write_part(new / f"{kind}{_number(spread)}", part, spread) for kind, part in zip(KINDS, (weights, optimizer), strict=True)
        )

    def finish(parts: list[dict]) -> None:
        (new / "state.json").write_text(json.dumps({"step": step, **facts}, indent=2), encoding="utf-8")
        manifest = {**{name: said for part in parts for name, said in part.items()}, **dict([_told(new / "state.json")])}
        (new / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        sync(new / MANIFEST)
        sync(new)
        remove(final)
        new.rename(final)
        sync(folder)

    try:
        spread.first(prepare)
        spread.after_all(write, finish)
    except (OSError, SafetensorError) as failure:
        if spread.rank == 0:
            shutil.rmtree(new, ignore_errors=True)
        raise refusal(failure, needed, final) from None
    return final


def _number(spread: Alone) -> str:
    return ".safetensors" if spread.size == 1 else f"-{spread.rank + 1:05}-of-{spread.size:05}.safetensors"


def _write_part(path: Path, tensors: Mapping[str, Tensor], spread: Alone) -> tuple[str, dict]:
    """Write what this rank has to write of these tensors; the file's name and what the manifest says of it."""
    mine = {name: spread.begins(owner(name), tensor) for name, tensor in tensors.items()}
    held = {name: tensors[name].detach().cpu().contiguous() for name, begins in mine.items() if begins is not None}
    whole = {name: [spread.cuts[owner(name)].shape if mine[name] else [], mine[name]] for name in held} if spread.size > 1 else {}
    save_file(held, path, {"parts": json.dumps(whole, sort_keys=True)} if whole else None)
    return _told(path)


def _told(path: Path) -> tuple[str, dict]:
    """What the manifest says of a file, once it is on the disk."""
    sync(path)
    return path.name, {"sha256": sha256(path), "bytes": path.stat().st_size}


def bytes_of(*parts: Mapping[str, Tensor]) -> int:
    """The bytes of all tensors."""
    return sum(tensor.nbytes for part in parts for tensor in part.values())


def refusal(failure: OSError | SafetensorError, needed: int, place: Path) -> OSError:
    """What the system said when `needed` bytes or less could not be written at `place`: `NoRoom` if that was the reason."""
    if isinstance(failure, OSError):
        number, said = failure.errno, failure.strerror
    else:  # its sentence ends in "(os error 28)"
        found = re.search(r"os error (\d+)", str(failure))
        number, said = int(found[1]) if found else errno.EIO, str(failure)
    if isinstance(failure, NoRoom) or (isinstance(failure, OSError) and number not in FULL):
        return failure
    if number in FULL:
        return NoRoom(errno.ENOSPC, f"a checkpoint needs at least {needed:,} bytes: {said}", str(place))
    return OSError(number, f"a checkpoint could not be written: {said}", str(place))


def newest_good(folder: Path, say: Callable[[str], None], until: int | None = None, spread: Alone | None = None) -> Checkpoint | None:
    """The newest checkpoint (of step `until` or before) that its manifest confirms; None where there is none at all. `say` hears of
    each broken one.

    The ranks of a `spread` model look through a share of the files each. Raises `ValueError` when all are broken.
    """
    spread = spread or Alone({})
    steps = spread.agreed([step for step in saved_steps(folder) if until is None or step <= until])
    for step in steps[::-1]:
        path = folder / f"step-{step}"
        fault = spread.first_said(broken(path, spread.rank, spread.size))
        if fault is None:
            facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
            weights, optimizer = (Stored(sorted(path.glob(f"{kind}*.safetensors"))) for kind in KINDS)
            return Checkpoint(path, step, weights, optimizer, facts)
        say(f"The checkpoint {path} is broken ({fault}): looking for an older one.")
    if steps:
        raise ValueError(f"none of the {len(steps)} checkpoints in {folder} is whole: delete {folder} to start again")
    return None


def broken(path: Path, share: int = 0, shares: int = 1) -> str | None:
    """What differs from the manifest, or None for a whole checkpoint; only a share of the contents is looked through."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for number, (name, said) in enumerate(manifest.items()):
            if Path(name).name != name:
                return f"its manifest names {name}, which lies elsewhere"
            if (path / name).stat().st_size != said["bytes"]:
                return f"{name} has {(path / name).stat().st_size:,} bytes, not {said['bytes']:,}"
            if number % shares == share and sha256(path / name) != said["sha256"]:
                return f"{name} has changed since it was written"
        missing = _missing(set(manifest))
        if missing:
            return f"its manifest lacks {missing}"
        strangers = {file.name for file in path.glob("*.safetensors")} - set(manifest)
        if strangers:
            return f"{min(strangers)} does not belong to it"
        step = json.loads((path / "state.json").read_text(encoding="utf-8"))["step"]
        return None if path.name == f"step-{step}" else f"it holds step {step}"
    except FileNotFoundError as missing:
        return f"{Path(missing.filename).name} is missing"
    except OSError as unreadable:
        return f"{Path(unreadable.filename).name} cannot be read: {unreadable.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is no manifest"


def _missing(names: set[str]) -> str | None:
    """A file that a whole checkpoint with these would have too."""
    ranks = max([int(found[2]) for name in names if (found := NUMBERED.search(name))], default=1)
    numbers = [".safetensors"] if ranks == 1 else [f"-{rank + 1:05}-of-{ranks:05}.safetensors" for rank in range(ranks)]
    return min({"state.json", *(f"{kind}{number}" for kind in KINDS for number in numbers)} - names, default=None)


def prune(folder: Path, keep: int, spared: Collection[int] = ()) -> None:
    """Remove all checkpoints but the last `keep` and those of the steps that are `spared`, and what an interrupted save left."""
    steps = saved_steps(folder)
    for step in steps[:-keep]:
        if step not in spared:
            remove(folder / f"step-{step}")
    for left in folder.glob(f"step-*{UNFINISHED}"):
        shutil.rmtree(left, ignore_errors=True)


def saved_steps(folder: Path) -> list[int]:
    """The steps of all checkpoints in `folder`, in order."""
    names = (path.name.removeprefix("step-") for path in folder.glob("step-*"))
    return sorted(int(name) for name in names if name.isdecimal())


def remove(path: Path) -> None:
    """Take a checkpoint away in one rename, then delete it: a crash leaves no half of one."""
    if path.exists():
        gone = path.with_name(f"{path.name}-gone{UNFINISHED}")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
