"""Checkpoints that survive: a folder of safetensors and JSON, its manifest written last, put in place by one rename."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, one's share of it, the size that a file may have


class NoRoom(OSError):
    """The disk is full, or nobody may write more on it; the sentence says how many bytes a checkpoint needs."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: `weights` and `optimizer` by name, `facts` as saved."""

    path: Path
    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    facts: dict


def save(folder: Path, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], facts: dict) -> Path:
    """Write `folder/step-N`; it is there whole or not at all, and nothing older is touched.

    Raises `NoRoom` with the bytes needed when the disk is full, `OSError` when it refuses otherwise.
    """
    final, new = folder / f"step-{step}", folder / f"step-{step}{UNFINISHED}"
    tensors = {"weights.safetensors": weights, "optimizer.safetensors": optimizer}
    needed = bytes_of(*tensors.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoRoom(errno.ENOSPC, f"a checkpoint needs {needed:,} bytes and {free:,} are free", str(final))
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir()
        for name, part in tensors.items():
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in part.items()}, new / name)
        (new / "state.json").write_text(json.dumps({"step": step, **facts}, indent=2), encoding="utf-8")
        names = [*tensors, "state.json"]
        for name in names:
            _sync(new / name)
        manifest = {name: {"sha256": sha256(new / name), "bytes": (new / name).stat().st_size} for name in names}
        (new / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        _sync(new / MANIFEST)
        _sync(new)
        remove(final)
        new.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as failure:
        shutil.rmtree(new, ignore_errors=True)
        raise refusal(failure, needed, final) from None
    return final


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


def newest_good(folder: Path, say: Callable[[str], None], until: int | None = None) -> Checkpoint | None:
    """The newest checkpoint (of step `until` or before) that its manifest confirms; None where there is none at all. `say` hears of
    each broken one.

    Raises `ValueError` when all are broken.
    """
    steps = [step for step in saved_steps(folder) if until is None or step <= until]
    for step in steps[::-1]:
        path = folder / f"step-{step}"
        fault = broken(path)
        if fault is None:
            facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
            return Checkpoint(path, step, load_file(path / "weights.safetensors"), load_file(path / "optimizer.safetensors"), facts)
        say(f"The checkpoint {path} is broken ({fault}): looking for an older one.")
    if steps:
        raise ValueError(f"none of the {len(steps)} checkpoints in {folder} is whole: delete {folder} to start again")
    return None


def broken(path: Path) -> str | None:
    """What differs from the manifest, or None for a whole checkpoint."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, said in manifest.items():
            if Path(name).name != name:
                return f"its manifest names {name}, which lies elsewhere"
            if (path / name).stat().st_size != said["bytes"]:
                return f"{name} has {(path / name).stat().st_size:,} bytes, not {said['bytes']:,}"
            if sha256(path / name) != said["sha256"]:
                return f"{name} has changed since it was written"
        missing = {"weights.safetensors", "optimizer.safetensors", "state.json"} - set(manifest)
        if missing:
            return f"its manifest lacks {min(missing)}"
        step = json.loads((path / "state.json").read_text(encoding="utf-8"))["step"]
        return None if path.name == f"step-{step}" else f"it holds step {step}"
    except FileNotFoundError as missing:
        return f"{Path(missing.filename).name} is missing"
    except OSError as unreadable:
        return f"{Path(unreadable.filename).name} cannot be read: {unreadable.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is no manifest"


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


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
