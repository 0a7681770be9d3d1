"""Where a large file can be taken apart, so that several processes read it: between lines of JSON, between the parts of a long text."""

import hashlib
import io
from collections.abc import Iterator

from fledge.data.files import SNIFFED, as_utf8, decompressed
from fledge.data.reading.kinds import is_text
from fledge.data.reading.part import LIMIT, Span, runs

LINES = ("jsonl", "ndjson")
BLOCK = 1 << 20


def spans(path: str, form: tuple[str, str], size: int, span: int) -> tuple[Span, ...]:
    """The spans of a file of this form (`format_of`) and `size`, which give the documents that it gives as a whole; none where it is small.

    Lines of JSON have spans of `span` bytes or a little more, other text those that it is cut into anyway.
    Raises `OSError` where it cannot be read.
    """
    kind, compression = form
    if compression or size <= (2 * span if kind in LINES else LIMIT) or not (kind in LINES or is_text(kind)):
        return ()
    with open(path, "rb", BLOCK) as raw, decompressed(raw, "", path) as stream:
        binary = b"\0" in stream.peek(SNIFFED)[:SNIFFED]
        as_utf8(stream)
        if binary or stream.tell():  # a byte order mark was read
            return ()
        return tuple(_of_lines(stream, span) if kind in LINES else _of_text(stream))


def _of_lines(stream: io.BufferedReader, size: int) -> Iterator[Span]:
    start, line = 0, 1
    while True:
        content, length, lines = hashlib.sha256(), 0, 0
        while data := stream.read(min(BLOCK, size - length)) if length < size else stream.readline(BLOCK):
            content.update(data)
            lines += data.count(b"\n")
            length += len(data)
            if length > size and data.endswith(b"\n"):
                break
        if not length:
            return
        yield Span(start, start + length, line, content.hexdigest())
        start, line = start + length, line + lines


def _of_text(stream: io.BufferedReader) -> Iterator[Span]:
    start = 0
    for line, raw, _ in runs(stream, LIMIT):
        yield Span(start, start + len(raw), line, hashlib.sha256(raw).hexdigest())
        start += len(raw)
