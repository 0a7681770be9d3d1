"""Safetensors files of a folder: found, checked before a weight is read, mapped into memory; written in shards."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

WHOLE, INDEX, SHARDS = "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SHARD_BYTES = 5 * 10**9


class Stored:
    """The tensors of a folder's weights: names, shapes and dtypes at once, contents mapped when asked for.

    Raises `FileNotFoundError` for a missing file, `ValueError` for pickles, a broken header, an index that leaves its folder or is untrue.
    """

    def __init__(self, folder: Path):
        self.folder, self.place = folder, dict[str, str]()
        listed = _listed(folder)
        self._open = {name: _opened(folder / name) for name in (sorted(set(listed.values())) if listed else [WHOLE])}
        for file, contents in self._open.items():
            for tensor in contents.keys():  # noqa: SIM118 (a safe_open handle is no dictionary)
                if tensor in self.place:
                    raise ValueError(f"{folder}: tensor {tensor} is in {self.place[tensor]} and again in {file}")
                if listed and listed.get(tensor) != file:
                    raise ValueError(f"{folder / file} holds tensor {tensor}, which {INDEX} expects in {listed.get(tensor, 'no file')}")
                self.place[tensor] = file
        for tensor in listed:
            if tensor not in self.place:
                raise ValueError(f"{folder / INDEX} names tensor {tensor}, but {listed[tensor]} does not hold it")

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._open[self.place[name]].get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Raises `ValueError` for a tensor that holds no floating-point numbers."""
        stored = self._open[self.place[name]].get_slice(name).get_dtype()
        if stored not in DTYPES:
            raise ValueError(f"{self.folder / self.place[name]}: tensor {name} is {stored}, but weights are one of {', '.join(DTYPES)}")
        return DTYPES[stored]

    def tensor(self, name: str) -> Tensor:
        """A private mapping of the file, read page by page when used and never written back; its own, so that it goes when it is copied."""
        return _opened(self.folder / self.place[name]).get_tensor(name)


def _listed(folder: Path) -> dict[str, str]:
    """Each tensor's file by the index; nothing where one file holds them all."""
    if (folder / WHOLE).is_file():
        return {}
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        if pickles:
            raise ValueError(
                f"{folder} has its weights as {pickles[0]}, a pickle, which can run code when it is opened: fledge reads safetensors only. "
                f"Take a copy with {WHOLE}, or convert it where you trust it with transformers' save_pretrained"
            )
        raise FileNotFoundError(f"{folder} has no {WHOLE} and no {INDEX}: the weights are missing")
    listed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise ValueError(f"{folder / INDEX} has no weight_map from tensors to files")
    for file in sorted(set(listed.values())):
        _stay_inside(folder, file)
    return listed


def _stay_inside(folder: Path, file: str) -> None:
    if PurePosixPath(file).name != file or "\\" in file or ":" in file or not file.endswith(".safetensors"):
        raise ValueError(f"{folder / INDEX} names the file {file!r}, but it may only name .safetensors files that lie beside it")
    target = (folder / file).resolve()
    # The Hub's cache keeps snapshots/REVISION/file as a link to blobs/HASH of the same repository.
    homes = [folder.resolve()] + ([folder.resolve().parents[1] / "blobs"] if folder.resolve().parent.name == "snapshots" else [])
    if target.parent not in homes:
        raise ValueError(f"{folder / INDEX} names the file {file!r}, a link to {target} outside of the folder")
    if not target.is_file():
        raise FileNotFoundError(f"{folder} has no {file}, which {INDEX} names: the copy is incomplete")


def _opened(path: Path) -> Any:
    path.open("rb").close()  # of a file that may not be read the library says that there is none
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}): copy it again") from None


def save_tensors(tensors: Iterable[tuple[str, Tensor]], folder: Path, limit: int = SHARD_BYTES) -> dict[str, str]:
    """Write `model.safetensors`, or shards of at most `limit` bytes with an index; the SHA-256 of each file by name.

    Only one shard's tensors are held at a time. Shards are named by their contents, so that they never replace another model's.
    """
    shards, batch, place, total, count = list[Path](), dict[str, Tensor](), dict[str, int](), 0, 0

    def flush() -> None:
        shards.append(folder / f"shard-{len(shards)}")
        save_file(batch, shards[-1], {"format": "pt"})
        batch.clear()

    for name, tensor in tensors:
        if batch and _bytes(batch.values()) + _bytes([tensor]) > limit:
            flush()
        batch[name], place[name] = tensor.contiguous(), len(shards)
        total, count = total + _bytes([tensor]), count + tensor.numel()
    flush()
    hashes = [sha256(path) for path in shards]
    if len(shards) == 1:
        os.rename(shards[0], folder / WHOLE)
        return {WHOLE: hashes[0]}
    tag = hashlib.sha256("".join(hashes).encode()).hexdigest()[:8]
    names = [f"model-{tag}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for path, name in zip(shards, names, strict=True):
        os.rename(path, folder / name)
    index = {"metadata": {"total_size": total, "total_parameters": count}, "weight_map": {name: names[i] for name, i in place.items()}}
    write_json(folder / INDEX, index)
    return dict(zip(names, hashes, strict=True))


@contextmanager
def room_for(what: str, needed: int, folder: Path) -> Iterator[None]:
    """Inside, so many bytes are written to a folder; raises `OSError` that says how many when the disk has not so much room."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{what} needs {needed:,} bytes and {free:,} are free", str(folder))
    try:
        yield
    except (OSError, SafetensorError) as failure:
        told = re.search(r"os error (\d+)", str(failure))
        number = failure.errno if isinstance(failure, OSError) else int(told[1]) if told else errno.EIO
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(errno.ENOSPC, f"{what} needs {needed:,} bytes and {free:,} were free: {failure}", str(folder)) from None
        if isinstance(failure, OSError):
            raise
        raise OSError(number, str(failure), str(folder)) from None


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that the tensors of a folder lie in, by name."""
    return {file: sha256(folder / file) for file in sorted(set(Stored(folder).place.values()))}


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; `FileNotFoundError` names what is missing, `ValueError` the file and line where it breaks."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} has no {path.name}: it is no model folder, or an incomplete copy") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, but a JSON object is needed")
    return data


def write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
