"""Files, folders and globs -> documents; what cannot be read is rejected with its reason, file and line."""

import codecs
import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from fledge.arch.record import did_you_mean
from fledge.data.files import SNIFFED, Progress, decoded, mended, opened, require
from fledge.data.tables import SAMPLE, columns_of, counted, guess_text, is_table, known_column, rows


@dataclass(frozen=True)
class Document:
    """One text: a whole file, or the `column` of one row at `line` of a table; `replaced` counts its invalid characters."""

    text: str
    source: str
    line: int | None = None
    column: str | None = None
    replaced: int = 0
    language: str = ""


@dataclass(frozen=True)
class Rejected:
    """A file, or a row of one, that gives no document: `reason` is a kind to count, `detail` what is wrong with this one."""

    reason: str
    source: str
    line: int | None = None
    detail: str = ""
    bytes: int = 0

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}, line {self.line}"
        return f"{place}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


def read(sources: Sequence[str], text_column: str | None = None, progress: Progress | None = None) -> Iterator[Document | Rejected]:
    """Every document of `sources` (files, folders, globs) in a fixed order: each text file and each row of a table gives one item.

    A file that is named must be readable: empty, binary or broken ones raise `ValueError`, as does a source that does not exist;
    a lack of permission raises `OSError`. In folders and globs they are rejected. An empty row is rejected everywhere.
    Folders are read whole, without hidden files.
    """
    files = find(sources)
    for path, _ in files:
        require(path)
    sizes = [os.path.getsize(path) for path, _ in files]
    return _read(files, sizes, text_column, progress)


def _read(
    files: list[tuple[str, bool]], sizes: list[int], text_column: str | None, progress: Progress | None
) -> Iterator[Document | Rejected]:
    done, total = 0, sum(sizes)
    for (path, named), size in zip(files, sizes, strict=True):
        try:
            for item in _rows(path, text_column) if is_table(path) else _whole(path):
                if named and isinstance(item, Rejected) and item.reason in FATAL:
                    raise ValueError(f"{item}: {FATAL[item.reason]}")
                yield item
        except OSError as error:
            if named:
                raise
            yield Rejected("unreadable", path, detail=error.strerror or str(error))
        except ValueError as error:
            if named:
                raise
            yield Rejected("damaged", path, detail=str(error))
        done += size
        if progress:
            progress("read", done, total)


# What keeps a file that was named from being read at all, and what to do about it.
FATAL = {
    "empty file": "give one that holds text",
    "binary": "give text, or a table of texts",
    "broken row": "mend this row, or remove it",
}
EXAMPLES = 100  # of what was rejected that are kept
SHOWN = 3  # of them that are said


def noted(items: Sequence[Document | Rejected]) -> tuple[dict[str, str], dict[str, int], tuple[str, ...], int]:
    """The column of each table, how many items were rejected for which reason, some of them, and the invalid characters replaced."""
    kept = [item for item in items if isinstance(item, Document)]
    rejected = [item for item in items if isinstance(item, Rejected)]
    columns = {item.source: item.column for item in kept if item.column is not None}
    reasons = dict(Counter(item.reason for item in rejected))
    return columns, reasons, tuple(str(item) for item in rejected[:EXAMPLES]), sum(item.replaced for item in kept)


def remarks(columns: Mapping[str, str], rejected: Mapping[str, int], examples: Sequence[str], replaced: int) -> list[str]:
    """What `noted` found, as sentences to print."""
    said = [f"the text of {path} is its column {column!r} (another: --text-column)" for path, column in columns.items()]
    if rejected:
        said.append("rejected: " + ", ".join(f"{count:,} {reason}" for reason, count in rejected.items()))
        said += [f"  {example}" for example in examples[:SHOWN]] + ["  ..."] * (sum(rejected.values()) > SHOWN)
    if replaced:
        said.append(f"{counted(replaced, 'invalid UTF-8 sequence')} replaced")
    return said


def _whole(path: str) -> Iterator[Document | Rejected]:
    with opened(path) as stream:
        head = stream.read(SNIFFED)
        wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raw = head if b"\0" in head and not wide else head + stream.read()
    if b"\0" in raw and not wide:
        yield Rejected("binary", path, detail="it holds NUL bytes")
        return
    text, replaced = _wide(raw) if wide else decoded(raw)
    text, halves = mended(text)
    if text.strip():
        yield Document(text, path, replaced=replaced + halves)
    else:
        yield Rejected("empty file", path)


def _wide(raw: bytes) -> tuple[str, int]:
    """UTF-16 with its mark, as Windows' editors save it."""
    text = raw.decode("utf-16", "replace")
    return text, text.count("\ufffd")


def _rows(path: str, text_column: str | None) -> Iterator[Document | Rejected]:
    every = rows(path, (text_column,) if text_column else ())
    sample = list(islice(every, SAMPLE))
    good = [row for row in sample if not row.problem]
    if not sample:
        yield Rejected("empty file", path, detail="no rows")
        return
    column = None
    if good:
        column = known_column(path, columns_of(good), text_column, "--text-column") if text_column else guess_text(path, good)
    for row in chain(sample, every):
        value = row.values.get(column) if column else None
        if row.problem:
            yield Rejected("broken row", path, row.line, row.problem)
        elif value is None or not str(value).strip():
            yield Rejected("empty text", path, row.line)
        elif not isinstance(value, str):
            yield Rejected("no text", path, row.line, f"{column} is a {type(value).__name__}")
        else:
            text, halves = mended(value)
            yield Document(text, path, row.line, column, row.replaced + halves)


def find(sources: Sequence[str]) -> list[tuple[str, bool]]:
    """The files of `sources`, each once, and whether it was named itself (not found in a folder or by a glob).

    Raises `ValueError` for a source that does not exist, with the nearest name beside it, and for folders and globs without files.
    """
    if not sources:
        raise ValueError("no text was given: name files, folders or globs")
    found: dict[str, tuple[str, bool]] = {}
    for source in sources:
        path = os.path.expanduser(source)
        if os.path.isfile(path):
            matches, named = [path], True
        elif os.path.isdir(path):
            matches, named = list(_walk(path, set())), False
        elif glob.has_magic(path):
            matches = [file for match in sorted(glob.glob(path, recursive=True)) for file in ([match] if os.path.isfile(match) else [])]
            named = False
        else:
            raise ValueError(_missing(path))
        if not matches:
            raise ValueError(f"{source} holds no files")
        for match in matches:
            key = os.path.realpath(match)
            found[key] = (found[key][0], found[key][1] or named) if key in found else (match, named)
    return list(found.values())


def _walk(folder: str, above: set[tuple[int, int]]) -> Iterator[str]:
    """Files below `folder` in the order of their names; hidden ones and links back to a folder `above` are left out."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError as error:
        raise PermissionError(error.errno, f"{folder} may not be listed", folder) from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, above | {here})
        elif entry.is_file():
            yield entry.path


def _missing(path: str) -> str:
    folder = Path(path).parent
    if not folder.is_dir():
        return f"{path} does not exist: there is no folder {folder}"
    beside = sorted(os.listdir(folder))
    near = did_you_mean(Path(path).name, beside)
    return f"{path} does not exist{near if near.startswith(': did') else ''}"
