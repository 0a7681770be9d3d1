"""A prepared text on disk: shards of tokens with an index of documents, checked against their manifest whenever they are opened."""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fledge.arch.record import from_json
from fledge.data.documents import remarks
from fledge.data.files import sha256, sync
from fledge.data.tables import counted
from fledge.text.files import MARIAN
from fledge.text.tokenizer import Tokenizer

FORMAT = 3
MANIFEST, PROFILE = "manifest.json", "profile.json"
BLANK = b" \t\n\v\f\r\x1c\x1d\x1e\x1f"
WIDE = "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
CHECKED = 1 << 23  # bytes of a shard that are looked at together
SYNCED = 8  # files whose way to the disk is waited for at once


@dataclass(frozen=True)
class Summary:
    """What was read and what became of it.

    `items` are `documents` + `duplicates` + all that was `rejected`; their `bytes_in` are `bytes` + what cleaning `changed` +
    `bytes_rejected` (duplicates among them).
    """

    files: int
    items: int
    documents: int
    duplicates: int
    rejected: dict[str, int]
    rejections: tuple[str, ...]
    replaced: int
    columns: dict[str, str]
    bytes_in: int
    bytes: int
    bytes_rejected: int
    train_tokens: int
    validation_tokens: int
    vocabulary: int

    def __add__(self, other: "Summary") -> "Summary":
        """Of two corpora with one vocabulary together."""
        rejected = {reason: self.rejected.get(reason, 0) + other.rejected.get(reason, 0) for reason in {**self.rejected, **other.rejected}}
        added = {name: getattr(self, name) + getattr(other, name) for name in COUNTS}
        return replace(
            self, **added, rejected=rejected, rejections=self.rejections + other.rejections, columns=self.columns | other.columns
        )

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / (self.train_tokens + self.validation_tokens)

    @property
    def changed(self) -> int:
        """By how many bytes cleaning made the documents shorter."""
        return self.bytes_in - self.bytes_rejected - self.bytes

    def said(self) -> list[str]:
        """Sentences to print."""
        said = [f"{counted(self.documents, 'document')} from {counted(self.files, 'file')}, {self.bytes:,} bytes of text"]
        if self.duplicates:
            said.append(f"{counted(self.duplicates, 'duplicate')} removed")
        said += remarks(self.columns, self.rejected, self.rejections, self.replaced)
        said.append(
            f"{self.train_tokens:,} tokens to train on, {self.validation_tokens:,} to validate; "
            f"{self.bytes_per_token:.2f} bytes per token with a vocabulary of {self.vocabulary:,}"
        )
        return said


COUNTS = (
    "files", "items", "documents", "duplicates", "replaced", "bytes_in", "bytes", "bytes_rejected", "train_tokens", "validation_tokens",
)  # fmt: skip


class Shards:
    """The tokens of one split: documents one after another, each closed by `<|endoftext|>`; positions wrap around at the end."""

    def __init__(self, parts: Sequence[np.ndarray], indexes: Sequence[np.ndarray]):
        """`parts`: the tokens of each shard; `indexes`: (documents, 2) int64, where each document starts in it and its text's bytes."""
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.tokens = int(self._ends[-1]) if len(self._ends) else 0
        first = np.concatenate([[0], self._ends[:-1]]) if len(self._ends) else []
        self.starts = (
            np.concatenate([index[:, 0] + at for index, at in zip(indexes, first, strict=True)]) if indexes else np.zeros(0, np.int64)
        )
        self.byte_lengths = np.concatenate([index[:, 1] for index in indexes]) if indexes else np.zeros(0, np.int64)
        self.documents = len(self.starts)
        self.bytes = int(self.byte_lengths.sum())

    @classmethod
    def joined(cls, several: Sequence["Shards"]) -> "Shards":
        """Several streams one after another."""
        pieces = [piece for one in several for piece in one._pieces()]
        return cls([part for part, _ in pieces], [index for _, index in pieces])

    def _pieces(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each shard with its index."""
        for part, end in zip(self._parts, self._ends.tolist(), strict=True):
            own = slice(*np.searchsorted(self.starts, [end - len(part), end]))
            yield part, np.column_stack([self.starts[own] - (end - len(part)), self.byte_lengths[own]])

    def document(self, number: int) -> tuple[np.ndarray, int]:
        """The tokens (length,) int64 of one document without its `<|endoftext|>`, and the bytes of its text as UTF-8."""
        end = self.starts[number + 1] if number + 1 < self.documents else self.tokens
        return self.window(int(self.starts[number]), int(end - self.starts[number] - 1)), int(self.byte_lengths[number])

    def window(self, start: int, length: int) -> np.ndarray:
        """(length,) int64 tokens from position `start` on, which may be negative: the stream is a ring."""
        found = np.empty(length, np.int64)
        filled = 0
        while filled < length:
            at = (start + filled) % self.tokens
            part = int(np.searchsorted(self._ends, at, side="right"))
            inside = at - (int(self._ends[part]) - len(self._parts[part]))
            piece = self._parts[part][inside : inside + length - filled]
            found[filled : filled + len(piece)] = piece
            filled += len(piece)
        return found

    def document_at(self, start: int, length: int) -> np.ndarray:
        """(length,) int64: the number of the document that each position of `window(start, length)` belongs to."""
        return np.searchsorted(self.starts, (start + np.arange(length)) % self.tokens, side="right") - 1

    def opens(self, start: int, length: int) -> np.ndarray:
        """(length,) bool: where `window(start, length)` holds the first token of a document."""
        at = (start + np.arange(length)) % self.tokens
        return self.starts[np.searchsorted(self.starts, at, side="right") - 1] == at


@dataclass(frozen=True)
class Group:
    """The two splits of the documents of one name."""

    train: Shards
    validation: Shards

    def said(self) -> str:
        return f"{self.train.documents + self.validation.documents:,} documents, {self.train.tokens:,} tokens to train on"


@dataclass(frozen=True)
class Corpus:
    """A prepared text in `folder`, made as its `settings` tell; `contents` are the hashes of its two splits.

    `groups`: what is of each name that sources were given, "" where none was, and `mix` the shares by which to train on them, if the
    corpus has any. Several corpora taken as one lie in `folders`, each of which is a group of that name.
    `reused` when `prepare` found it there already, made from the same text in the same way; `news` says what was new in the
    sources of one that it brought up to date.
    """

    folder: Path
    tokenizer: Tokenizer
    train: Shards
    validation: Shards
    summary: Summary
    settings: dict[str, Any]
    contents: dict[str, str]
    groups: dict[str, Group] = field(default_factory=dict)
    mix: dict[str, float] | None = None
    folders: dict[str, Path] = field(default_factory=dict)
    reused: bool = False
    news: str = ""

    @classmethod
    def open(cls, folder: Path | str) -> "Corpus":
        """The corpus in `folder`, every file of which is first compared with `manifest.json`.

        Raises `ValueError` naming the file that is missing, damaged or not of this format.
        """
        folder = Path(folder)
        facts = _verified(folder)
        dtype = np.dtype(facts["dtype"])
        shards: dict[str, Shards] = {}
        for shard in (shard for split in facts["splits"].values() for shard in split):
            path = folder / f"{shard}.bin"
            part = np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)
            shards[shard] = Shards([part], [np.fromfile(folder / f"{shard}.idx", "<i8").reshape(-1, 2)])
        splits = {split: Shards.joined([shards[shard] for shard in names]) for split, names in facts["splits"].items()}

        def of(group: str) -> Group:
            if len(facts["sizes"]) == 1:
                return Group(splits["train"], splits["validation"])
            own = {shard for shard, name in facts["groups"].items() if name == group}
            return Group(*(Shards.joined([shards[one] for one in facts["splits"][split] if one in own]) for split in splits))

        summary = from_json(Summary, facts["summary"], "summary")
        return cls(
            folder, Tokenizer.load(folder, facts["tokenizer"]), splits["train"], splits["validation"], summary, facts["settings"],
            facts["contents"], {group: of(group) for group in facts["sizes"]}, facts["mix"], {folder.resolve().name: folder},
        )  # fmt: skip

    @classmethod
    def joined(cls, named: Mapping[str, "Corpus"]) -> "Corpus":
        """Several corpora as one, in which each is the group of its name.

        Raises `ValueError` where they do not have one tokenizer.
        """
        (first, one), *others = named.items()
        for name, other in others:
            if other.tokenizer.fingerprint() != one.tokenizer.fingerprint():
                raise ValueError(
                    f"{first} and {name} have different tokenizers: prepare one of them anew with --tokenizer {one.folder} of the other"
                )
        several = list(named.values())
        contents = {
            split: hashlib.sha256("".join(corpus.contents[split] for corpus in several).encode()).hexdigest() for split in one.contents
        }
        summary = one.summary
        for _, other in others:
            summary += other.summary
        return replace(
            one, train=Shards.joined([corpus.train for corpus in several]), validation=Shards.joined([each.validation for each in several]),
            summary=summary, contents=contents, groups={name: Group(each.train, each.validation) for name, each in named.items()},
            mix=None, folders={name: each.folder for name, each in named.items()},
        )  # fmt: skip

    @staticmethod
    def facts(folder: Path | str) -> dict[str, Any]:
        """What `corpus.json` says of the corpus in `folder`, whose shards are not looked at.

        Raises `ValueError` when it, or the manifest, is missing, damaged or not of this format.
        """
        folder = Path(folder)
        return _facts(folder, _manifest(folder))


def content_hash(text: str, raw: bytes | None = None) -> bytes:
    """16 bytes that are equal for texts that differ in white space or Unicode composition only; `raw`: its UTF-8, where that is at hand."""
    composed = unicodedata.normalize("NFC", text)
    if raw is None or composed is not text:
        raw = composed.encode()
    if not composed.isascii():
        for blank in WIDE:
            if blank in composed:
                raw = raw.replace(blank.encode(), b"")
    return hashlib.blake2b(raw.translate(None, BLANK), digest_size=16).digest()


def share(text: str, seed: int) -> float:
    """A number in [0, 1) that follows from the content of `text` and the seed alone."""
    return share_of(content_hash(text), seed)


def share_of(content: bytes, seed: int) -> float:
    """The same, of a `content_hash`."""
    drawn = hashlib.blake2b(content, digest_size=8, salt=seed.to_bytes(16, "little", signed=True)).digest()
    return int.from_bytes(drawn, "little") / 2**64


def dtype_of(tokenizer: Tokenizer) -> np.dtype:
    """How the tokens of a corpus are stored: two bytes each where all ids fit into them, else four."""
    return np.dtype("<u2" if tokenizer.size <= 1 << 16 else "<u4")


def seal(folder: Path, known: dict[str, dict[str, Any]]) -> None:
    """Everything in `folder` on disk, and then `manifest.json` with the SHA-256 and size of each file; those `known` are not read."""
    files, paths = dict(known), list(folder.iterdir())
    for path in paths:
        if path.name not in files:
            files[path.name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    with ThreadPoolExecutor(SYNCED) as pool:  # so that one turn of the disk serves several
        list(pool.map(sync, paths))
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"files": dict(sorted(files.items()))}, indent=1), encoding="utf-8")
    sync(manifest)
    sync(folder)


def _verified(folder: Path) -> dict[str, Any]:
    """What `corpus.json` says, after each file that the manifest or it names was found as it was written."""
    wanted = _manifest(folder)
    facts = _facts(folder, wanted)
    dtype, size = np.dtype(facts["dtype"]), facts["summary"]["vocabulary"]
    shards = {f"{shard}.bin" for split in facts["splits"].values() for shard in split}
    for name, (digest, length) in wanted.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing: prepare the corpus again")
        whole, largest = hashlib.sha256(), 0
        with open(path, "rb") as stream:
            while data := stream.read(CHECKED):
                whole.update(data)
                if name in shards:
                    largest = max(largest, int(np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype).max(initial=0)))
        if path.stat().st_size != length or whole.hexdigest() != digest:
            raise ValueError(f"{path} is damaged: it differs from {MANIFEST}; prepare the corpus again")
        if largest >= size:
            raise ValueError(f"{path} is damaged: it holds token {largest:,}, but the ids are 0 to {size - 1:,}; prepare the corpus again")
    for shard in sorted(shards):
        _check_index(folder / shard, dtype)
    return facts


def _check_index(shard: Path, dtype: np.dtype) -> None:
    """Documents lie one behind the other in a shard, from its first token to its last."""
    index, tokens = np.fromfile(shard.with_suffix(".idx"), "<i8"), shard.stat().st_size // dtype.itemsize
    starts, sizes = index[: len(index) // 2 * 2].reshape(-1, 2).T
    ends = np.append(starts[1:], tokens)
    if len(index) % 2 or not len(starts) or starts[0] != 0 or (ends <= starts).any() or (sizes < 0).any():
        raise ValueError(f"{shard.with_suffix('.idx')} is damaged: it does not fit {shard.name}; prepare the corpus again")


def _manifest(folder: Path) -> dict[str, tuple[str, int]]:
    """The SHA-256 and size of each file, as the manifest tells."""
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: make it with fledge prepare SOURCE --out {folder}")
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} is no corpus: it has no {MANIFEST}")
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        wanted = {name: (entry["sha256"], entry["bytes"]) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{folder / MANIFEST} is damaged: prepare the corpus again") from None
    for name in wanted:
        if Path(name).name != name:
            raise ValueError(f"{folder / MANIFEST} names {name!r}, which is outside its folder")
    return wanted


def _facts(folder: Path, wanted: dict[str, tuple[str, int]]) -> dict[str, Any]:
    """What `corpus.json` says; raises `ValueError` when it is not what the manifest tells, or names what that does not."""
    if "corpus.json" not in wanted:
        raise ValueError(f"{folder / MANIFEST} does not name corpus.json: prepare the corpus again")
    path = folder / "corpus.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: prepare the corpus again")
    if sha256(path) != wanted["corpus.json"][0]:
        raise ValueError(f"{path} is damaged: it differs from {MANIFEST}; prepare the corpus again")
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts["format"] != FORMAT:
        raise ValueError(f"{folder} has corpus format {facts['format']}, but this fledge reads {FORMAT}: prepare the corpus again")
    shards = [f"{shard}.{ending}" for split in facts["splits"].values() for shard in split for ending in ("bin", "idx")]
    words = MARIAN if MARIAN[0] in wanted else ("tokenizer.json",)
    for name in [*shards, *words, PROFILE]:
        if name not in wanted:
            raise ValueError(f"{folder / MANIFEST} does not name {name}: prepare the corpus again")
    return facts
