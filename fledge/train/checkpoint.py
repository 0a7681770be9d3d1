"""Checkpoints that survive: a folder of safetensors and JSON, its manifest written last, put in place by one rename."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"


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

    Raises `OSError` with the bytes needed when the disk is full.
    """
    final, new = folder / f"step-{step}", folder / f"step-{step}{UNFINISHED}"
    tensors = {"weights.safetensors": weights, "optimizer.safetensors": optimizer}
    needed = sum(tensor.nbytes for part in tensors.values() for tensor in part.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"a checkpoint needs {needed:,} bytes and {free:,} are free", str(final))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
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
    except (OSError, SafetensorError) as failure:
        shutil.rmtree(new, ignore_errors=True)
        if isinstance(failure, OSError) and failure.errno != errno.ENOSPC:
            raise
        raise OSError(errno.ENOSPC, f"a checkpoint of {needed:,} bytes could not be written ({failure})", str(final)) from None
    remove(final)
    new.rename(final)
    _sync(folder)
    return final


def newest_good(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that its manifest confirms; None where none was ever saved. `say` hears of each broken one.

    Raises `ValueError` when all are broken.
    """
    steps = saved_steps(folder)
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
        return f"its manifest lacks {min(missing)}" if missing else None
    except FileNotFoundError as missing:
        return f"{Path(missing.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is no manifest"


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Remove all checkpoints but the last `keep`, the one of step `best`, and what an interrupted save left."""
    steps = saved_steps(folder)
    for step in steps[:-keep]:
        if step != best:
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
