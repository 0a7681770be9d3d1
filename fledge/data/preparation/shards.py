"""A staged part becomes tokens on disk, a shard for each split."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fledge.data.corpus import dtype_of
from fledge.data.engine import Report
from fledge.data.fates import CUT
from fledge.data.pieces import (
    Part,
    building,
)
from fledge.data.preparation.tasks import BATCH_BYTES, batches
from fledge.text.tokenizer import Tokenizer

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Tokenizing:
    """The order to make the shards of a part in `folder`; `cut`: a document and the byte where its held-out end begins."""

    part: Part
    fates: bytes
    cut: tuple[int, int] | None
    tokenizer: Path
    fingerprint: str
    folder: Path

    def __str__(self) -> str:
        return self.part.path


@dataclass(frozen=True)
class Shard:
    """What became of a part, in `folder`: of each split that has any the tokens, documents, bytes and the SHA-256 of its two files."""

    folder: Path
    splits: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, folder: Path) -> "Shard":
        """The shard in a folder; raises `OSError` or `ValueError` when it is not what it was."""
        splits = json.loads((folder / "shard.json").read_text(encoding="utf-8"))
        for split, facts in splits.items():
            for ending in ("bin", "idx"):
                with open(folder / f"{split}.{ending}", "rb") as stream:
                    if hashlib.file_digest(stream, "sha256").hexdigest() != facts[ending]:
                        raise ValueError(f"{folder}: {split}.{ending} is not what it was")
        return cls(folder, splits)

    def counts(self) -> dict[str, np.ndarray]:
        """Of each split the tokens of its documents, (documents,) int64, each with the one that ends it."""
        starts = {split: np.fromfile(self.folder / f"{split}.idx", "<i8")[::2] for split in self.splits}
        return {split: np.diff(start, append=self.splits[split]["tokens"]) for split, start in starts.items()}


def tokenize_part(order: Tokenizing, report: Report) -> Shard:
    """Make the shards of one part, unless they stand."""
    try:
        found = Shard.open(order.folder)
        report(order.part.bytes)
        return found
    except (OSError, ValueError):
        shutil.rmtree(order.folder, ignore_errors=True)
    tokenizer = _tokenizer(order.tokenizer, order.fingerprint)
    with building(order.folder) as folder:
        writers = {split: _ShardWriter(folder, split, tokenizer) for split in SPLITS}
        fates, records = np.frombuffer(order.fates, np.uint8), order.part.records()
        chosen = np.flatnonzero(fates <= CUT)
        texts = order.part.texts(chosen, records)
        numbers = iter(chosen.tolist())
        for batch in batches(texts, BATCH_BYTES):
            parted: dict[str, list[str]] = {split: [] for split in SPLITS}
            size = 0
            for number, text in zip(islice(numbers, len(batch)), batch, strict=True):
                size += int(records["bytes"][number])
                if fates[number] == CUT:
                    assert order.cut is not None
                    raw = text.encode()
                    parted["train"].append(raw[: order.cut[1]].decode())
                    parted["validation"].append(raw[order.cut[1] :].decode())
                else:
                    parted[SPLITS[fates[number]]].append(text)
            for split, some in parted.items():
                writers[split].add(some)
            report(size)
        splits = {split: facts for split, writer in writers.items() if (facts := writer.close()) is not None}
        (folder / "shard.json").write_text(json.dumps(splits), encoding="utf-8")
    return Shard(order.folder, splits)


@lru_cache(1)
def _tokenizer(folder: Path, fingerprint: str) -> Tokenizer:
    return Tokenizer.load(folder)


class _ShardWriter:
    """The two files of one split: the tokens, and where each document starts and how many bytes its text has."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer):
        self.tokenizer, self.dtype = tokenizer, dtype_of(tokenizer)
        self.path, self.index = folder / f"{split}.bin", folder / f"{split}.idx"
        self.end = np.array([tokenizer.end_of_text], self.dtype)
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.tokens, self.hash = 0, hashlib.sha256()
        self.file = open(self.path, "wb")  # noqa: SIM115

    def add(self, texts: list[str]) -> None:
        for text, tokens in zip(texts, self.tokenizer.encode_arrays(texts), strict=True):
            self.starts.append(self.tokens)
            self.sizes.append(len(text.encode()))
            self.tokens += len(tokens) + 1
            for part in (tokens.astype(self.dtype, copy=False), self.end):
                self.file.write(part.data)
                self.hash.update(part.data)

    def close(self) -> dict[str, Any] | None:
        """What was written; None, and no files, if nothing was."""
        self.file.close()
        if not self.tokens:
            self.path.unlink()
            return None
        index = np.column_stack([self.starts, self.sizes]).astype("<i8").tobytes()
        self.index.write_bytes(index)
        counts = {"tokens": self.tokens, "documents": len(self.starts), "bytes": sum(self.sizes)}
        return {**counts, "bin": self.hash.hexdigest(), "idx": hashlib.sha256(index).hexdigest()}
