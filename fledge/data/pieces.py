"""Pieces of the input, and the staged files that keep what came of reading and cleaning them.

A working folder holds finished things only, each under a key: the hash of all that decides what it is. Whatever is
made lies under another name until it is whole; so a run that was killed goes on from what is there. Nothing waits for
the disk: whatever stands is used again only after its files were found as they were written.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np

from fledge.arch.record import from_json, to_json
from fledge.data.cleaning.changes import Changes
from fledge.data.corpus import content_hash
from fledge.data.documents import EXAMPLES, SHOWN, Document, Rejected
from fledge.data.files import sha256
from fledge.data.reading.part import Span
from fledge.data.reading.spans import spans
from fledge.data.sources import Input
from fledge.data.unique.exact import digests
from fledge.data.unique.near import Near
from fledge.data.unique.paragraphs import paragraph_digests

BATCH = 1 << 21  # characters whose signatures are made together
FEW = 1 << 11  # bytes whose words are counted at once by splitting them
BLOCK = 1 << 20
BLANKS = bytes(byte in b" \t\n\v\f\r" for byte in range(256))
UNFINISHED, MADE = ".unfinished", "made.json"
NONE = np.zeros((0, 2), "<u8")
# What is known of each document of a staged part: `bytes` of its text here, and `before` it was cleaned; `words` are what white space
# (of ASCII) separates; where it comes
# from (`source` and `language` are numbers of the part's lists); how many `paragraphs` were hashed; whether the caller holds it
# out (-1: it was not asked). Hashes, and what near duplicates are found by, lie in files of their own.
RECORD = np.dtype(
    [
        ("bytes", "<i8"),
        ("before", "<i8"),
        ("characters", "<i8"),
        ("words", "<i8"),
        ("line", "<i8"),
        ("paragraphs", "<i4"),
        ("source", "<i4"),
        ("language", "<i2"),
        ("held", "i1"),
    ]
)


@dataclass(frozen=True)
class Piece:
    """Inputs that are read one after another by one process, all of one source; `contents`: what each holds, as `Contents` tells."""

    inputs: tuple[Input, ...]
    contents: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(given.size for given in self.inputs)

    def key(self, settings: Any) -> str:
        """The hash of what is read and of how."""
        return key_of([[given.path, given.named, given.origin, given.group] for given in self.inputs], self.contents, settings)

    def __str__(self) -> str:
        others = len(self.inputs) - 1
        return self.inputs[0].source + (f" and {others:,} more" if others else "")


def pieces_of(inputs: Sequence[Input], contents: Sequence[str], size: int) -> list[Piece]:
    """Runs of inputs of about `size` bytes, or one input that is larger.

    Where a run ends follows from the name and size of the inputs around it, so that one more input changes the piece around it only.
    """
    pieces: list[Piece] = []
    first, filled = 0, 0
    for at, given in enumerate(inputs):
        filled += given.size
        following = inputs[at + 1] if at + 1 < len(inputs) else None
        if (
            following is None
            or (following.origin, following.group) != (given.origin, given.group)
            or following.size >= size
            or filled >= 2 * size
            or (filled >= size / 2 and _draw(given.path) * size / 2 < given.size)
        ):
            pieces.append(Piece(tuple(inputs[first : at + 1]), tuple(contents[first : at + 1])))
            first, filled = at + 1, 0
    return pieces


def piece_size(total: int) -> int:
    """Bytes of a piece for so many in all: small enough for every worker to have its share, large enough to be counted in thousands."""
    return next(size for size, most in ((1 << 22, 1 << 30), (1 << 24, 1 << 36), (1 << 26, math.inf)) if total <= most)


def _draw(path: str) -> float:
    """A number in [0, 1) that follows from the name of a file and of its folder, wherever that lies."""
    name = "/".join(path.split("/")[-2:])
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little") / 2**64


def key_of(*facts: Any) -> str:
    """A short hash of values that JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Look:
    """What looking at an input found: how its file looks, a hash of what it holds, and the spans in which it is read, if not as a whole."""

    file: list[int] | None
    content: str
    spans: tuple[Span, ...] = ()

    @classmethod
    def at(cls, given: Input, size: int) -> "Look":
        """Look at an input that is to be read in pieces of about `size` bytes."""
        file = look_of(given)
        if file is not None:
            with suppress(OSError):
                if found := spans(given.path, given.format, given.size, size):
                    return cls(file, key_of([span.content for span in found]), found)
        return cls(file, given.fingerprint())


def parted(inputs: Sequence[Input], looks: Mapping[str, Look]) -> tuple[list[Input], list[str]]:
    """The inputs, and for each span of one its own, with the contents that `pieces_of` needs.

    How a span is read depends on where the file begins, too.
    """
    found: list[tuple[Input, str]] = []
    for given in inputs:
        look = looks[given.path]
        for span in look.spans:
            told = key_of(look.spans[0].content, span.start, span.line, span.content)
            found.append((replace(given, size=span.end - span.start, span=span), told))
        if not look.spans:
            found.append((given, look.content))
    return [given for given, _ in found], [content for _, content in found]


class Contents:
    """What looks at files found, remembered by path, size, inode and times as long as those stay the same.

    A change of the same size whose modification time was set back is noticed by the time of change, which nobody sets; a file
    that was written within the last seconds is read again next time, for its clock may be too coarse to tell.
    """

    SETTLED = 3_000_000_000  # nanoseconds

    def __init__(self, path: Path, size: int):
        """`size`: bytes of a piece, by which large files are taken apart."""
        self.path, self.size = path, size
        try:
            self.known: dict[str, list[Any]] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}
        self.seen: dict[str, list[Any]] = {}

    def known_of(self, given: Input) -> Look | None:
        """What the last look at a file found that is as it was then."""
        known = self.known.get(given.path)
        if known is None or known[0] is None or known[0] != look_of(given) or known[2] != self.size:
            return None
        return Look(known[0], known[1], tuple(Span(*span) for span in known[3]))

    def note(self, path: str, look: Look, now: int) -> None:
        """Remember what a look found, unless the file was written a moment before `now` (nanoseconds)."""
        settled = look.file is not None and now - max(look.file[2:4]) > self.SETTLED
        self.seen[path] = [look.file if settled else None, look.content, self.size, [list(astuple(span)) for span in look.spans]]

    def news(self) -> str:
        """What is new since the last time, as people say it."""
        both = self.known.keys() & self.seen.keys()
        changed = sum(self.known[path][1] != self.seen[path][1] for path in both)
        new, gone = len(self.seen) - len(both), len(self.known) - len(both)
        counts = {"added": new, "changed": changed, "removed": gone, "as before": len(both) - changed}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)

    def save(self) -> None:
        with replacing(self.path) as file:
            file.write(json.dumps(self.seen).encode())


def look_of(given: Input) -> list[int] | None:
    """Size, inode and times of a file; None of anything else."""
    if given.place != "file" or given.problem:
        return None
    try:
        status = os.stat(given.path)
    except OSError:
        return None
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


@contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A binary file to write, which takes the place of `path` once it is whole and on disk."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def building(folder: Path, digests: Mapping[str, str] = MappingProxyType({})) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` once it is whole; if another was faster, that one stays.

    `digests`: the SHA-256 of files in it, by their names, as far as they were found while these were written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.", suffix=UNFINISHED))
    try:
        yield made
        files = {path.name: digests.get(path.name) or sha256(path) for path in made.iterdir()}
        (made / MADE).write_text(json.dumps(files), encoding="utf-8")
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(made)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def stands(folder: Path) -> bool:
    """Whether a folder was built and its files are what they were then; if not, it is removed."""
    try:
        files: dict[str, str] = json.loads((folder / MADE).read_text(encoding="utf-8"))
        if all(sha256(folder / name) == digest for name, digest in files.items()):
            return True
    except (OSError, ValueError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return False


@dataclass(frozen=True)
class Part:
    """One staged part of a piece, of about the bytes of a piece at the most (a longer document has one of its own): the files `PATH.*`.

    `.text` holds the texts one after another, `.documents` a record of each, `.json` the names that these number, `.hashes.npy` the
    `content_hash` of each, and, where they were asked for, `.signatures.npy` and `.paragraphs.npy` what near duplicates and repeated
    paragraphs are found by. `content` is a hash of the texts and their lengths.
    """

    path: str
    documents: int
    bytes: int
    content: str

    def records(self) -> np.ndarray:
        """(documents,) of `RECORD`."""
        return np.fromfile(f"{self.path}.documents", RECORD)

    def array(self, name: str) -> Path:
        """The file of `hashes`, `signatures` or `paragraphs`."""
        return Path(f"{self.path}.{name}.npy")

    @property
    def names(self) -> dict[str, list[str]]:
        """The `sources` and `languages` that the records number."""
        return json.loads(Path(f"{self.path}.json").read_text(encoding="utf-8"))

    def texts(self, chosen: np.ndarray | None = None, records: np.ndarray | None = None) -> Iterator[str]:
        """The text of each document, or of those at the ascending numbers `chosen`."""
        sizes = (self.records() if records is None else records)["bytes"]
        starts = np.cumsum(sizes) - sizes
        with open(f"{self.path}.text", "rb") as stream:
            for number in range(len(sizes)) if chosen is None else chosen.tolist():
                if stream.tell() != starts[number]:
                    stream.seek(int(starts[number]))
                yield stream.read(int(sizes[number])).decode()

    def place(self, record: np.void, sources: list[str] | None = None) -> str:
        """Where a document comes from, to be read by people."""
        source, line = (sources or self.names["sources"])[int(record["source"])], int(record["line"])
        return source if line < 0 else f"{source}, line {line}"


@dataclass(frozen=True)
class Staged:
    """What came of a piece, in `folder`: its parts, and what gave no document, by reason in documents and bytes.

    `lengths`: of these too, [documents, bytes] of those whose size has so many bits (`int.bit_length`); `shown`: the first of each reason.
    """

    folder: Path
    origin: str
    group: str
    files: int
    documents: int
    rejected: dict[str, list[int]]
    lengths: list[list[int]]
    shown: dict[str, list[str]]
    examples: tuple[str, ...]
    replaced: int
    columns: dict[str, str]
    changes: Changes
    parts: tuple[Part, ...]

    @classmethod
    def open(cls, folder: Path) -> "Staged":
        """What stands in a folder."""
        facts: dict[str, Any] = json.loads((folder / "piece.json").read_text(encoding="utf-8"))
        parts = tuple(Part(str(folder / name), *rest) for name, *rest in facts.pop("parts"))
        changes = from_json(Changes, facts.pop("changes"), "changes")
        facts["examples"] = tuple(facts["examples"])
        return cls(folder, **facts, changes=changes, parts=parts)


class Staging:
    """Documents and rejections on their way into the files of a piece; use it in a `with`.

    `digests` gets the SHA-256 of each of its files of texts. `near`: by what near duplicates will be found, if they are; `paragraphs`:
    whether repeated ones will be.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        digests: dict[str, str],
        origin: str = "",
        group: str = "",
        near: Near | None = None,
        paragraphs: bool = False,
    ):
        self.digests = digests
        self.folder, self.origin, self.group, self.limit, self.near, self.paragraphs = folder, origin, group, limit, near, paragraphs
        self.changes = Changes()
        self.parts: list[list[Any]] = []
        self.rejected: dict[str, list[int]] = {}
        self.lengths: list[list[int]] = []
        self.shown: dict[str, list[str]] = {}
        self.columns: dict[str, str] = {}
        self.examples: list[str] = []
        self.files = self.documents = self.replaced = 0
        self.source: str | None = None
        self.whole = hashlib.sha256()

    def __enter__(self) -> "Staging":
        self.log = open(self.folder / "rejected.log", "w", encoding="utf-8", errors="backslashreplace")
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self.records:
            self._close()
        self.text.close()
        self.log.close()
        if kind is not None:
            return
        if not self.records:
            Path(self.text.name).unlink()
        names = (
            "origin",
            "group",
            "files",
            "documents",
            "rejected",
            "lengths",
            "shown",
            "examples",
            "replaced",
            "columns",
            "changes",
            "parts",
        )
        facts = {name: to_json(getattr(self, name)) for name in names}
        (self.folder / "piece.json").write_text(json.dumps(facts), encoding="utf-8")

    def add(self, item: Document | Rejected, before: int | None = None, held: int = -1) -> None:
        """Take one item; `before`: the bytes of its text before it was cleaned, if it was."""
        if item.source != self.source:
            self.source = item.source
            self.files += 1
        if isinstance(item, Rejected):
            self.reject(item, item.bytes)
            return
        raw = item.text.encode()
        if self.records and self.size + len(raw) > self.limit:
            self._close()
            self._open()
        self.text.write(raw)
        self.content.update(raw)
        self.size += len(raw)
        self.hashes.append(content_hash(item.text, raw))
        found = paragraph_digests(item.text) if self.paragraphs else NONE
        if len(found):
            self.found.append(found)
        if self.near is not None:
            self.waiting.append(item.text)
            self.waits += len(item.text)
            if self.waits >= BATCH:
                self._sign()
        line = -1 if item.line is None else item.line
        source = self.sources.setdefault(item.source, len(self.sources))
        spoken = self.languages.setdefault(item.language, len(self.languages))
        before = len(raw) if before is None else before
        self.records.append((len(raw), before, len(item.text), word_count(raw), line, len(found), source, spoken, held))
        self.documents += 1
        self.replaced += item.replaced
        if item.column is not None and len(self.columns) < EXAMPLES:
            self.columns[item.source] = item.column

    def reject(self, item: Rejected, size: int) -> None:
        count = self.rejected.setdefault(item.reason, [0, 0])
        bits = size.bit_length()
        self.lengths += [[0, 0] for _ in range(bits + 1 - len(self.lengths))]
        for sums in (count, self.lengths[bits]):
            sums[0] += 1
            sums[1] += size
        line = str(item)
        self.log.write(one_line(line))
        if len(self.examples) < EXAMPLES:
            self.examples.append(line)
        if len(shown := self.shown.setdefault(item.reason, [])) < SHOWN:
            shown.append(line)

    def _open(self) -> None:
        self.text = open(self.folder / f"{len(self.parts):05}.text", "wb")  # noqa: SIM115
        self.records: list[tuple] = []
        self.sources: dict[str, int] = {}
        self.languages: dict[str, int] = {}
        self.content, self.size = hashlib.sha256(), 0
        self.hashes: list[bytes] = []
        self.waiting: list[str] = []
        self.waits = 0
        self.signatures: list[np.ndarray] = []
        self.found: list[np.ndarray] = []

    def _sign(self) -> None:
        if self.near is not None and self.waiting:
            self.signatures.append(self.near.signatures(self.waiting))
            self.waiting, self.waits = [], 0

    def _close(self) -> None:
        self.text.close()
        name = f"{len(self.parts):05}"
        records = np.array(self.records, RECORD)
        records.tofile(self.folder / f"{name}.documents")
        np.save(self.folder / f"{name}.hashes.npy", digests(self.hashes))
        if self.near is not None:
            self._sign()
            np.save(self.folder / f"{name}.signatures.npy", np.concatenate(self.signatures))
        if self.paragraphs:
            np.save(self.folder / f"{name}.paragraphs.npy", np.concatenate([NONE, *self.found]))
        names = json.dumps({"sources": list(self.sources), "languages": list(self.languages)})
        (self.folder / f"{name}.json").write_text(names, encoding="utf-8")
        self.digests[f"{name}.text"] = self.content.hexdigest()
        self.parts.append([name, len(records), self.size, content_of(self.content, records)])
        self.whole.update(records.tobytes() + names.encode() + self.content.digest())

    def key(self) -> str:
        """The hash of all that was taken."""
        return key_of(self.whole.hexdigest(), self.rejected, self.examples, self.replaced)


def content_of(texts: "hashlib._Hash", records: np.ndarray) -> str:
    """The `content` of a part, by the SHA-256 of its texts and their records."""
    return key_of(texts.hexdigest(), hashlib.sha256(records["bytes"].tobytes()).hexdigest())


def word_count(raw: bytes) -> int:
    """How many words white space (of ASCII) separates, as `len(raw.split())` counts them.

    >>> word_count(b" a bee\n\nsea ")
    3
    """
    if len(raw) <= FEW:
        return len(raw.split())
    count, blank = 0, True
    for start in range(0, len(raw), BLOCK):
        block = np.frombuffer(raw[start : start + BLOCK].translate(BLANKS), bool)
        count += int(np.count_nonzero(block[:-1] > block[1:])) + int(blank and not block[0])
        blank = bool(block[-1])
    return count


def one_line(text: str) -> str:
    """A line of a log, whatever line breaks a file's name holds."""
    return " ".join(text.splitlines()) + "\n"
