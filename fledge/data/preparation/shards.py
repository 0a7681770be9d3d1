"""A staged part becomes tokens on disk, a shard for each split."""

import hashlib
import json
from collections.abc import Sequence
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
    stands,
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
        """The shard that stands in a folder."""
        return cls(folder, json.loads((folder / "shard.json").read_text(encoding="utf-8")))

    @property
    def tokens(self) -> int:
        """Those that are trained on."""
        return self.splits["train"]["tokens"] if "train" in self.splits else 0

    def counts(self) -> dict[str, np.ndarray]:
        """Of each split the tokens of its documents, (documents,) int64, each with the one that ends it."""
        starts = {split: np.fromfile(self.folder / f"{split}.idx", "<i8")[::2] for split in self.splits}
        return {split: np.diff(start, append=self.splits[split]["tokens"]) for split, start in starts.items()}


def tokenize_part(order: Tokenizing, report: Report) -> Shard:
    """Make the shards of one part, unless they stand."""
    if stands(order.folder):
        report(order.part.bytes)
        return Shard.open(order.folder)
    tokenizer, digests = _tokenizer(order.tokenizer, order.fingerprint), dict[str, str]()
    with building(order.folder, digests) as folder:
        writers = {split: _ShardWriter(folder, split, tokenizer) for split in SPLITS}
        fates, records = np.frombuffer(order.fates, np.uint8), order.part.records()
        chosen = np.flatnonzero(fates <= CUT)
        texts = order.part.texts(chosen, records)
        numbers = iter(chosen.tolist())
        for batch in batches(texts, BATCH_BYTES):
            parted: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
            done = 0
            for number, text in zip(islice(numbers, len(batch)), batch, strict=True):
                size = int(records["bytes"][number])
                done += size
                if fates[number] == CUT:
                    assert order.cut is not None
                    raw, border = text.encode(), order.cut[1]
                    parted["train"].append((raw[:border].decode(), border))
                    parted["validation"].append((raw[border:].decode(), size - border))
                else:
                    parted[SPLITS[fates[number]]].append((text, size))
            for split, some in parted.items():
                if some:
                    writers[split].add(*zip(*some, strict=True))
            report(done)
        splits = {split: facts for split, writer in writers.items() if (facts := writer.close()) is not None}
        digests |= {f"{split}.{ending}": facts[ending] for split, facts in splits.items() for ending in ("bin", "idx")}
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
        self.end = np.array([tokenizer.end_of_text], np.uint32)
        self.starts: list[np.ndarray] = []
        self.sizes: list[int] = []
        self.tokens, self.hash = 0, hashlib.sha256()
        self.file = open(self.path, "wb")  # noqa: SIM115

    def add(self, texts: Sequence[str], sizes: Sequence[int]) -> None:
        """Some documents, with the bytes that each has as UTF-8."""
        encoded = self.tokenizer.encode_arrays(list(texts))
        ends = self.tokens + np.cumsum([len(tokens) + 1 for tokens in encoded])
        self.starts += [np.array([self.tokens]), ends[:-1]]
        self.sizes += sizes
        self.tokens = int(ends[-1])
        tokens = np.concatenate([part for tokens in encoded for part in (tokens, self.end)], dtype=self.dtype, casting="unsafe")
        self.file.write(tokens.data)
        self.hash.update(tokens.data)

    def close(self) -> dict[str, Any] | None:
        """What was written; None, and no files, if nothing was."""
        self.file.close()
        if not self.tokens:
            self.path.unlink()
            return None
        index = np.column_stack([np.concatenate(self.starts), self.sizes]).astype("<i8").tobytes()
        self.index.write_bytes(index)
        counts = {"tokens": self.tokens, "documents": len(self.sizes), "bytes": sum(self.sizes)}
        return {**counts, "bin": self.hash.hexdigest(), "idx": hashlib.sha256(index).hexdigest()}
