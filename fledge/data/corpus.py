"""Documents -> unique -> train and validation -> tokens -> shards on disk that are checked when opened."""

import hashlib
import json
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from fledge.arch.record import differences, from_json, to_json
from fledge.data.files import Progress
from fledge.data.sources import Document, Rejected, noted, remarks
from fledge.data.tables import counted
from fledge.text.tokenizer import Tokenizer, Training

FORMAT = 1
MANIFEST = "manifest.json"
SHARD_TOKENS = 1 << 26
BATCH_CHARACTERS = 1 << 21
LEAST_CUT = 256  # characters of a document that are worth holding out
T = TypeVar("T")


@dataclass(frozen=True)
class Summary:
    """What was read and what became of it: `documents` + `duplicates` + all `rejected` items are all items that came in."""

    files: int
    items: int
    documents: int
    duplicates: int
    rejected: dict[str, int]
    rejections: tuple[str, ...]
    replaced: int
    columns: dict[str, str]
    bytes: int
    train_tokens: int
    validation_tokens: int
    vocabulary: int

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / (self.train_tokens + self.validation_tokens)

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
class Corpus:
    """A prepared text in `folder`; `reused` when `prepare` found it there already, made from the same text in the same way."""

    folder: Path
    tokenizer: Tokenizer
    train: Shards
    validation: Shards
    summary: Summary
    settings: dict[str, Any]
    reused: bool = False

    @classmethod
    def open(cls, folder: Path | str) -> "Corpus":
        """The corpus in `folder`, every file of which is first compared with `manifest.json`.

        Raises `ValueError` naming the file that is missing, damaged or not of this format.
        """
        folder = Path(folder)
        facts = _verified(folder)
        dtype = np.dtype(facts["dtype"])
        splits = {}
        for split in ("train", "validation"):
            parts, indexes = [], []
            for shard in facts["splits"][split]:
                path = folder / f"{shard}.bin"
                parts.append(np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype))
                indexes.append(np.fromfile(folder / f"{shard}.idx", "<i8").reshape(-1, 2))
            splits[split] = Shards(parts, indexes)
        summary = from_json(Summary, facts["summary"], "summary")
        return cls(folder, Tokenizer.load(folder), splits["train"], splits["validation"], summary, facts["settings"])


def prepare(
    documents: Iterable[Document | Rejected],
    out: Path | str,
    tokenizer: Tokenizer | Training | Literal["characters"] | int = 8192,
    validation: float | Callable[[Document], bool] = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
    shard_tokens: int = SHARD_TOKENS,
    replace_other: bool = False,
) -> Corpus:
    """Writes the corpus folder `out` from `documents`, which are held in memory meanwhile.

    `tokenizer`: one that stands, or how many ids a byte-level BPE trained on the train part shall have, or another kind with that
    number, or `"characters"` (of it).
    `validation`: the share of documents held out, chosen by their contents, or a function that says which. Of a single
    document, and where few or uneven ones would make the held-out part more than three times too large or small, the end of the
    longest is cut off, at the end of a line if there is one near. Documents equal up to white space count once.
    A folder made from the same documents with the same settings is returned as it is; a corpus made otherwise, or a damaged one,
    is replaced if `replace_other` says so.

    Raises `ValueError` when nothing is left to read, when one side of the split would be empty, or when `out` holds anything else
    (with the differences); nothing else is overwritten. Whatever happens, `out` is either whole or not there.
    """
    out = Path(out)
    unique, tally = _unique(documents)
    train, held_out = _split(unique, validation, seed)
    if isinstance(tokenizer, int):
        tokenizer = Training(tokenizer)
    asked = tokenizer.kind if isinstance(tokenizer, Training) else tokenizer
    settings = {
        "tokenizer": asked.fingerprint() if isinstance(asked, Tokenizer) else asked,
        "vocabulary": tokenizer.vocabulary if isinstance(tokenizer, Training) else None,
        "validation": "chosen by the caller" if callable(validation) else validation,
        "seed": seed,
        "documents": len(unique),
        "bytes": sum(len(document.text.encode()) for document in unique),
        "train": _fingerprint(train),
        "held_out": _fingerprint(held_out),
    }
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        try:
            return _standing(out, settings)
        except ValueError:
            if not (replace_other and (out / MANIFEST).is_file()):
                raise
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = _trained(tokenizer, [document.text for document in train], progress)
    building = out.parent / f".{out.name}.unfinished"
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        train_names, train_tokens = _write(building, "train", _encoded(train, tokenizer, progress), shard_tokens)
        held_names, held_tokens = _write(building, "validation", _encoded(held_out, tokenizer, progress), shard_tokens)
        facts = {
            "format": FORMAT,
            "settings": settings,
            "sources": dict(Counter(document.source for document in unique)),
            "tokenizer": tokenizer.fingerprint(),
            "dtype": _dtype(tokenizer).str,
            "splits": {"train": train_names, "validation": held_names},
            "summary": to_json(replace(tally, train_tokens=train_tokens, validation_tokens=held_tokens, vocabulary=tokenizer.size)),
        }
        tokenizer.save(building)
        (building / "corpus.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        _seal(building)
        if out.exists():
            shutil.rmtree(out)
        os.replace(building, out)
        _sync(out.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Corpus.open(out)


def content_hash(text: str) -> bytes:
    """16 bytes that are equal for texts that differ in white space or Unicode composition only."""
    return hashlib.blake2b(" ".join(unicodedata.normalize("NFC", text).split()).encode(), digest_size=16).digest()


def share(text: str, seed: int) -> float:
    """A number in [0, 1) that follows from the content of `text` and the seed alone."""
    return (
        int.from_bytes(hashlib.blake2b(content_hash(text), digest_size=8, salt=seed.to_bytes(16, "little", signed=True)).digest(), "little")
        / 2**64
    )


def _unique(documents: Iterable[Document | Rejected]) -> tuple[list[Document], Summary]:
    every = list(documents)
    unique: dict[bytes, Document] = {}
    for item in every:
        if isinstance(item, Document):
            unique.setdefault(content_hash(item.text), item)
    columns, rejected, examples, replaced = noted(every)
    if not unique:
        raise ValueError("there is no text to prepare" + "".join(f"\n  {example}" for example in examples[:5]))
    kept = list(unique.values())
    files, size = len({item.source for item in every}), sum(len(document.text.encode()) for document in kept)
    duplicates = len(every) - len(kept) - sum(rejected.values())
    return kept, Summary(files, len(every), len(kept), duplicates, rejected, examples, replaced, columns, size, 0, 0, 0)


def _split(documents: list[Document], validation: float | Callable[[Document], bool], seed: int) -> tuple[list[Document], list[Document]]:
    if callable(validation):
        held = [validation(document) for document in documents]
    elif not 0 < validation < 1:
        raise ValueError(f"the validation share is {validation}, but it lies between 0 and 1: for example 0.1")
    elif len(documents) == 1:
        return _cut(documents[0], 1 - validation)
    else:
        shares = [share(document.text, seed) for document in documents]
        held = [number < validation for number in shares]
        if not any(held):
            held[int(np.argmin(shares))] = True
        if all(held):
            held[int(np.argmax(shares))] = False
        sizes = np.array([len(document.text) for document in documents])
        longest, aim = int(sizes.argmax()), validation * sizes.sum()
        if not aim / 3 < sizes[held].sum() < aim * 3 and sizes[longest] > 2 * aim > 2 * LEAST_CUT:
            begin, end = _cut(documents[longest], 1 - aim / sizes[longest])
            return [*documents[:longest], *begin, *documents[longest + 1 :]], end
    train = [document for document, out in zip(documents, held, strict=True) if not out]
    held_out = [document for document, out in zip(documents, held, strict=True) if out]
    if not train or not held_out:
        raise ValueError(f"of {len(documents)} documents {len(held_out)} are held out for validation: both sides need at least one")
    return train, held_out


def _cut(document: Document, train_share: float) -> tuple[list[Document], list[Document]]:
    """One document in two: at the line end nearest to the share, if one lies within a twentieth of the text, else between characters."""
    text = document.text
    at = int(len(text) * train_share)
    reach = len(text) // 20
    before, after = text.rfind("\n", at - reach, at) + 1, text.find("\n", at, at + reach) + 1
    near = [border for border in (before, after) if border]
    at = min(near, key=lambda border: abs(border - at)) if near else at
    if not text[:at].strip() or not text[at:].strip():
        raise ValueError(f"{document.source} is too short to hold out a part for validation: give more text")
    return [replace(document, text=text[:at])], [replace(document, text=text[at:])]


def _fingerprint(documents: list[Document]) -> str:
    whole = hashlib.sha256()
    for document in documents:
        whole.update(hashlib.sha256(document.text.encode()).digest())
    return whole.hexdigest()


def _standing(out: Path, settings: dict[str, Any]) -> Corpus:
    if not (out / MANIFEST).is_file():
        raise ValueError(f"{out} exists and is no corpus: choose another --out")
    corpus = Corpus.open(out)
    changed = differences(corpus.settings, settings)
    if changed:
        raise ValueError(f"{out} was prepared otherwise ({'; '.join(changed)}): choose another --out, or remove that folder")
    return replace(corpus, reused=True)


def _trained(wanted: Training | Literal["characters"], texts: list[str], progress: Progress | None) -> Tokenizer:
    if isinstance(wanted, str) and wanted != "characters":
        raise ValueError(f"tokenizer {wanted!r}: give a number of ids for a trained one, or 'characters', or a Tokenizer")
    if progress:
        progress("tokenizer", 0, 1)
    made = Tokenizer.learned(texts, wanted)
    if progress:
        progress("tokenizer", 1, 1)
    return made


def _write(folder: Path, split: str, encoded: Iterator[tuple[np.ndarray, int]], limit: int) -> tuple[list[str], int]:
    """Shards of at most `limit` tokens (a longer document has one of its own): their names without endings, and the tokens in all."""
    names: list[str] = []
    total = 0
    for shard in _groups(encoded, lambda document: len(document[0]), limit):
        names.append(f"{split}-{len(names):05}")
        lengths = [len(tokens) for tokens, _ in shard]
        starts = np.cumsum([0, *lengths[:-1]])
        (folder / f"{names[-1]}.bin").write_bytes(np.concatenate([tokens for tokens, _ in shard]).data)
        (folder / f"{names[-1]}.idx").write_bytes(np.column_stack([starts, [size for _, size in shard]]).astype("<i8").data)
        total += sum(lengths)
    return names, total


def _encoded(documents: list[Document], tokenizer: Tokenizer, progress: Progress | None) -> Iterator[tuple[np.ndarray, int]]:
    """The tokens of each document with `<|endoftext|>` behind them, and its bytes; encoded in batches of about 2 MB."""
    dtype, done = _dtype(tokenizer), 0
    total = sum(len(document.text.encode()) for document in documents)
    for batch in _groups(documents, lambda document: len(document.text), BATCH_CHARACTERS):
        for document, tokens in zip(batch, tokenizer.encode_batch([document.text for document in batch]), strict=True):
            size = len(document.text.encode())
            done += size
            yield np.array([*tokens, tokenizer.end_of_text], dtype), size
        if progress:
            progress("tokenize", done, total)


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.size <= 1 << 16 else "<u4")


def _groups(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Runs of items whose sizes add up to at most `limit`; an item larger than that is a run of its own."""
    group: list[T] = []
    filled = 0
    for item in items:
        if group and filled + size(item) > limit:
            yield group
            group, filled = [], 0
        group.append(item)
        filled += size(item)
    if group:
        yield group


def _seal(folder: Path) -> None:
    """Everything in `folder` on disk, and then `manifest.json` with the SHA-256 and size of each file."""
    files = {}
    for path in sorted(folder.iterdir()):
        files[path.name] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
        _sync(path)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    _sync(manifest)
    _sync(folder)


def _verified(folder: Path) -> dict[str, Any]:
    """What `corpus.json` says, after each file that the manifest or it names was found as it was written."""
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: make it with fledge prepare SOURCE --out {folder}")
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} is no corpus: it has no {MANIFEST}")
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        wanted = {name: (entry["sha256"], entry["bytes"]) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{folder / MANIFEST} is damaged: prepare the corpus again") from None
    for name, (sha256, size) in wanted.items():
        path = folder / name
        if Path(name).name != name:
            raise ValueError(f"{folder / MANIFEST} names {name!r}, which is outside its folder")
        if not path.is_file():
            raise ValueError(f"{path} is missing: prepare the corpus again")
        if path.stat().st_size != size or _sha256(path) != sha256:
            raise ValueError(f"{path} is damaged: it differs from {MANIFEST}; prepare the corpus again")
    if "corpus.json" not in wanted:
        raise ValueError(f"{folder / MANIFEST} does not name corpus.json: prepare the corpus again")
    facts = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    if facts["format"] != FORMAT:
        raise ValueError(f"{folder} has corpus format {facts['format']}, but this fledge reads {FORMAT}: prepare the corpus again")
    shards = [f"{shard}.{ending}" for split in facts["splits"].values() for shard in split for ending in ("bin", "idx")]
    for name in [*shards, "tokenizer.json"]:
        if name not in wanted:
            raise ValueError(f"{folder / MANIFEST} does not name {name}: prepare the corpus again")
    return facts


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """fsync of a file or folder; Windows has none for folders."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
