"""What a reader is given, and the two ways in which text becomes documents."""

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO

from fledge.data.documents import Document, Item, Rejected
from fledge.data.files import BUFFER, as_utf8, decoded, mended, with_line_ends

LIMIT = 32 << 20
PIECE = 1 << 20


@dataclass(frozen=True)
class Span:
    """The bytes of a file from `start` to `end`, the first of which lies in `line`; `content` is their SHA-256."""

    start: int
    end: int
    line: int
    content: str


WHOLE = Span(0, 0, 1, "")


@dataclass(frozen=True)
class Part:
    """A file, or a member of an archive: its decompressed bytes, how it is called and what kind it is; `size` bytes as stored.

    Where only a `span` of a file is read, `stream` ends with it; `begun` opens the file from its beginning.
    """

    stream: io.BufferedReader
    source: str
    kind: str
    size: int = 0
    text_column: str | None = None
    limit: int = LIMIT
    depth: int = 0
    span: Span = WHOLE
    begun: Callable[[], AbstractContextManager[io.BufferedReader]] | None = None

    def rejected(self, reason: str, detail: str = "", line: int | None = None) -> Rejected:
        """The whole of it."""
        return Rejected(reason, self.source, line, detail, self.size)


Reader = Callable[[Part], Iterator[Item]]


def documents(text: str, source: str, limit: int, line: int | None = None, column: str | None = None, replaced: int = 0) -> Iterator[Item]:
    """`text` as one document, or cut into several of at most `limit` bytes; blank text is rejected."""
    text, halves = mended(text)
    if not text.strip():
        yield Rejected("empty text", source, line, bytes=len(text.encode()))
    elif len(text) * 4 <= limit or len(raw := text.encode()) <= limit:
        yield Document(text, source, line, column, replaced + halves)
    else:
        for begins, some, _ in runs(io.BufferedReader(io.BytesIO(raw)), limit):
            yield from _run(some, source, begins if line is None else line, column, replaced + halves)
            replaced = halves = 0


def whole_text(part: Part) -> Iterator[Item]:
    """A file of text: one document, or several where it is longer than the limit, each at the line where it begins."""
    stream = part.stream if part.span.start else as_utf8(part.stream)
    for line, raw, ended in runs(stream, part.limit, part.span.line):
        yield from _run(raw, part.source, None if part.span == WHOLE and ended and line == 1 else line)


def runs(stream: io.BufferedReader, limit: int, line: int = 1) -> Iterator[tuple[int, bytes, bool]]:
    """The bytes of a text that begins in `line` in runs of at most `limit`: the line in which each begins, and whether it is the last."""
    raw, ended = b"", False
    while not ended:
        more = _filled(stream, limit + 1 - len(raw))
        ended = len(raw) + len(more) <= limit
        raw = raw + more if raw else more
        end = len(raw) if ended else _break(raw, limit)
        yield line, raw[:end], ended
        if not ended:
            line, raw = line + raw.count(b"\n", 0, end), raw[end:]


def _filled(stream: io.BufferedReader, size: int) -> bytes:
    """The next `size` bytes; little room is made for a stream that has few."""
    found = stream.read(min(size, BUFFER))
    return found if len(found) < BUFFER else found + stream.read(size - len(found))


def _run(raw: bytes, source: str, line: int | None, column: str | None = None, replaced: int = 0) -> Iterator[Item]:
    """The document of a run; blank text is rejected."""
    text, invalid = decoded(raw)
    text = with_line_ends(text)
    if text.strip():
        yield Document(text, source, line, column, replaced + invalid)
    elif raw:
        yield Rejected("empty file" if line is None else "empty text", source, line, bytes=len(raw))


def _break(raw: bytes, limit: int) -> int:
    """Where to cut: behind the last blank line in the first `limit` bytes, else behind a line, a blank, a character."""
    for mark in (b"\n\n", b"\n\r\n", b"\n", b" "):
        if (at := raw.rfind(mark, 0, limit)) >= 0 and at + len(mark) > limit // 2:
            return at + len(mark)
    end = limit
    while end > limit - 4 and raw[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return end


SPOOLED = 8 << 20  # bytes that stay in memory
LARGEST = 4 << 30


@contextmanager
def seekable(part: Part) -> Iterator[IO[bytes]]:
    """The bytes of `part` for a library that jumps about in them: the file itself, or a copy of what was packed.

    Raises `ValueError` when unpacked it has more than 4 GB.
    """
    if part.stream.seekable():
        yield part.stream
        return
    with tempfile.SpooledTemporaryFile(SPOOLED) as copy:
        while data := part.stream.read(PIECE):
            copy.write(data)
            if copy.tell() > LARGEST:
                raise ValueError(f"unpacked it has more than {LARGEST:,} bytes")
        copy.seek(0)
        yield copy


class _Ear(logging.Handler):
    def __init__(self, heard: list[str]):
        super().__init__(logging.WARNING)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@contextmanager
def quiet(heard: list[str] | None = None) -> Iterator[None]:
    """Keep libraries from saying what they think of a file: what matters of it is in what they give or raise, or `heard`."""
    root = logging.getLogger()
    ears: list[logging.Handler] = [_Ear([] if heard is None else heard)]
    handlers, root.handlers = root.handlers, ears
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers = handlers
