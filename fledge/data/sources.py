"""Files, folders, globs, URLs and data sets -> documents; what cannot be read is rejected with its reason, file and line."""

import errno
import fnmatch
import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from fledge.arch.record import did_you_mean
from fledge.data.documents import Document, Item, Rejected
from fledge.data.files import BUFFER, Progress, decompressed, extra, format_of, require, sha256, shown, upto
from fledge.data.reading.hub import PREFIX, SPLITS, DataSet, data_set, newest, saved
from fledge.data.reading.kinds import items_of
from fledge.data.reading.part import LIMIT, WHOLE, Part, Span
from fledge.data.reading.remote import is_url, listed, opened_url


@dataclass(frozen=True)
class Input:
    """One thing to read, as `find` found it.

    Args:
        path: what opens it, a file's path, a URL or a data set's id; `source` is how it is shown.
        named: whether a person named it itself, instead of a folder or a pattern that holds it.
        size: its bytes as stored; 0 where unknown.
        group: the name that a person gave it, as in `general=wiki/`; else "".
        place: where it is.
        version: of what is not here, by which a change is noticed.
        origin: the source that it was found by, as it was given.
        problem: the reason why it cannot be read, known already, and `detail` to it; else "".
        span: which of its bytes are to be read, if not all of them; `size` is then theirs.
    """

    path: str
    named: bool
    size: int = 0
    group: str = ""
    place: Literal["file", "url", "hub"] = "file"
    version: str = ""
    origin: str = ""
    problem: str = ""
    detail: str = ""
    span: Span = WHOLE

    @property
    def source(self) -> str:
        """The path as documents and rejections show it."""
        return shown(self.path)

    @property
    def format(self) -> tuple[str, str]:
        """Its kind and its compression, by its name."""
        return format_of(urlsplit(self.path).path if self.place == "url" else self.path)

    def fingerprint(self) -> str:
        """SHA-256 of what it holds, by which a change is noticed; of what cannot be read, of why."""
        if self.problem or self.place != "file":
            return hashlib.sha256(repr((self.path, self.version, self.problem, self.detail)).encode()).hexdigest()
        try:
            return sha256(self.path)
        except OSError as error:
            return hashlib.sha256(str(error.errno).encode()).hexdigest()


def read(sources: Sequence[str], text_column: str | None = None, progress: Progress | None = None) -> Iterator[Item]:
    """Every document of `sources` in a fixed order, as `read_input` gives them; but what a person named must be readable.

    An input that is named and empty, binary, broken or not there raises `ValueError`, and `OSError` where a permission is missing.
    In folders and globs they are rejected. An empty row is rejected everywhere.
    """
    inputs = find(sources)
    for one in inputs:
        if not one.problem:
            require(one.source, one.format)
    return _read(inputs, text_column, progress)


def _read(inputs: Sequence[Input], text_column: str | None, progress: Progress | None) -> Iterator[Item]:
    done, total = 0, sum(one.size for one in inputs)
    for one in inputs:
        for item in read_input(one, text_column):
            if one.named and isinstance(item, Rejected) and item.source == one.source and _fatal(item):
                raise (PermissionError if item.detail == FORBIDDEN else ValueError)(f"{item}: {FATAL[item.reason]}")
            yield item
        done += one.size
        if progress:
            progress("read", done, total)


FORBIDDEN = os.strerror(errno.EACCES)
# What keeps a file that was named from being read at all, and what to do about it.
FATAL = {
    "empty file": "give one that holds text",
    "binary": "give text, or a table of texts",
    "broken row": "mend this row, or remove it",
    "damaged": "fetch or write it again",
    "unreadable": "make it readable",
    "no column": "name another with --text-column",
    "no reader": "fledge cannot read this kind of file",
    "encrypted": "give one that opens without",
    "no file": "give a file",
    "broken link": "mend the link",
    "no text": "give one that holds text",
    "too long": "cut it into several",
}


def _fatal(item: Rejected) -> bool:
    return item.reason in FATAL and not (item.reason == "no text" and item.line is not None)


def read_input(source: Input, text_column: str | None = None, limit: int = LIMIT) -> Iterator[Item]:
    """The documents of one input, and what of it gives none; nothing that is wrong with a file raises.

    Text of more than `limit` bytes is cut at a paragraph into several documents; a row that is longer is rejected unread.
    Raises `MissingLibrary` where this installation cannot read what it holds, and `ConnectionError` where a transfer is interrupted.
    """
    for item in _items(source, text_column, limit):
        yield replace(item, group=source.group) if source.group and isinstance(item, Document) else item


def _items(source: Input, text_column: str | None, limit: int) -> Iterator[Item]:
    if source.problem:
        yield Rejected(source.problem, source.source, detail=source.detail, bytes=source.size)
        return
    if source.place == "hub":
        wanted = DataSet.parse(source.path)
        assert wanted is not None
        yield from data_set(wanted, text_column, limit)
        return
    kind, compression = source.format
    try:
        raw = opened_url(source.path) if source.place == "url" else open(source.path, "rb", BUFFER)  # noqa: SIM115
    except OSError as error:
        yield Rejected("unreadable", source.source, detail=error.strerror or str(error), bytes=source.size)
        return
    size, span = source.size, source.span
    with raw as file, decompressed(file, compression, source.source) as whole:
        stream = whole
        if span != WHOLE:
            size = size if span.start else os.path.getsize(source.path)  # what is wrong with the whole of it is told once
            file.seek(span.start)
            stream = upto(file, span.end - span.start)
        yield from items_of(Part(stream, source.source, kind, size, text_column, limit, span=span, begun=partial(open, source.path, "rb")))


def find(sources: Sequence[str]) -> list[Input]:
    """What `sources` name, each once, in the order of the sources and below a folder in that of the names.

    A source is a file, a folder (read whole, without hidden files), a glob, a URL, or a data set's id (`org/name`,
    `hf://datasets/org/name@revision?config=en&split=train`); `name=` before it names the group of its documents.
    Raises `ValueError` for a source that does not exist, with the nearest name beside it, and for folders and globs without files.
    """
    if not sources:
        raise ValueError("no text was given: name files, folders or globs")
    found: dict[str, Input] = {}
    real = RealPaths()
    for source in sources:
        group, path = grouped(source)
        path = os.path.expanduser(path.removeprefix("file://"))
        inputs = list(_found(path, group))
        if not inputs:
            raise ValueError(f"{path} holds no files")
        for one in inputs:
            key = real(one.path) if one.place == "file" and not one.problem else one.path
            known = found.get(key)
            found[key] = replace(known, named=known.named or one.named) if known else replace(one, origin=source)
    return list(found.values())


class RealPaths:
    """`os.path.realpath` of many files, of which each folder is looked at once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        folder, name = os.path.split(path)
        if not name or name in (os.curdir, os.pardir) or os.path.islink(path):
            return os.path.realpath(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], name)


def grouped(source: str) -> tuple[str, str]:
    """The group and the path of `general=wiki/`; a path that exists is one, whatever it is called."""
    name, equals, path = source.partition("=")
    if not equals or not re.fullmatch(r"[\w.-]+", name) or os.path.lexists(os.path.expanduser(source)):
        return "", source
    return name, path


def _found(path: str, group: str) -> Iterator[Input]:
    wanted = DataSet.parse(path)
    if wanted and path.startswith(PREFIX):
        yield _on_the_hub(path, wanted, group)
    elif is_url(path):
        matches = listed(path)
        yield from (Input(url, url == path, size, group, "url", version) for url, size, version in matches)
    elif os.path.isdir(path):
        yield from _walk(path, group, set(), ())
    elif os.path.lexists(path):
        yield _input(path, True, group)
    elif glob.has_magic(path):
        yield from _matching(path, group)
    elif wanted:
        yield _on_the_hub(path, wanted, group)
    else:
        raise ValueError(_missing(path))


def _matching(pattern: str, group: str) -> Iterator[Input]:
    """What a glob names; `**` is as many folders as there are, without the circles that links make."""
    steps = pattern.split("/")
    if "**" not in steps:
        for match in sorted(glob.glob(pattern)):
            if not os.path.isdir(match):
                yield _input(match, False, group)
        return
    at = steps.index("**")
    for root in sorted(glob.glob("/".join(steps[:at]) or ("/" if pattern.startswith("/") else "."))):
        if os.path.isdir(root):
            for one in _walk(root, group, set(), ()):
                if one.problem == "unreadable" or _fits(os.path.relpath(one.path, root).split("/"), steps[at:]):
                    yield one


def _fits(names: Sequence[str], steps: Sequence[str]) -> bool:
    if not steps:
        return not names
    if steps[0] == "**":
        return any(_fits(names[at:], steps[1:]) for at in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], steps[0]) and _fits(names[1:], steps[1:])


def _on_the_hub(path: str, wanted: DataSet, group: str) -> Input:
    extra("datasets", path)
    try:
        version = newest(wanted)
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if path.startswith(PREFIX) else f"{_missing(path)}; {error}") from None
    return Input(str(replace(wanted, revision=version)), True, 0, group, "hub", version)


def _input(path: str, named: bool, group: str) -> Input:
    try:
        status = os.stat(path)
    except OSError as error:
        problem = "broken link" if os.path.islink(path) else "unreadable"
        return Input(path, named, group=group, problem=problem, detail=error.strerror or str(error))
    if stat.S_ISREG(status.st_mode):
        return Input(path, named, status.st_size, group)
    return Input(path, named, group=group, problem="no file", detail="a pipe, socket or device: reading it might never end")


Folder = tuple[int, int]


def _walk(folder: str, group: str, seen: set[Folder], above: tuple[Folder, ...]) -> Iterator[Input]:
    """What lies below `folder` in the order of the names, without what is hidden; a folder that several links lead to is read once."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        yield Input(folder, False, group=group, problem="circular link", detail="it leads to a folder that it lies in")
    if here in seen:
        return
    seen.add(here)
    if (files := saved(folder)) is not None:
        yield from (_input(file, False, group) for file in files)
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield Input(folder, not above, group=group, problem="unreadable", detail=error.strerror or str(error))
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == SPLITS:
            continue
        if os.path.isdir(entry.path):
            yield from _walk(entry.path, group, seen, (*above, here))
        else:
            yield _input(entry.path, False, group)


def _missing(path: str) -> str:
    folder = Path(path).parent
    if not folder.is_dir():
        return f"{path} does not exist: there is no folder {folder}"
    beside = sorted(os.listdir(folder))
    near = did_you_mean(Path(path).name, beside)
    return f"{path} does not exist{near if near.startswith(': did') else ''}"
