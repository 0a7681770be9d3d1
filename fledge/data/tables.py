"""Rows of tables (JSON, CSV, TSV, Parquet, Arrow) one after another, with line numbers; which column holds what is guessed."""

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import IO, Any

from fledge.arch.record import did_you_mean
from fledge.data.files import SNIFFED, as_utf8, decoded, decompressed, extra, format_of, opened, require

TEXTUAL = ("jsonl", "ndjson", "json", "csv", "tsv")
TABLES = (*TEXTUAL, "parquet", "arrow", "feather")
TEXT = ("text", "content", "body", "document", "article", "sentence", "message", "review", "passage", "story", "code")
LABEL = ("label", "labels", "class", "category", "target", "sentiment", "topic", "intent", "type", "tag", "y")
SAMPLE = 200


@dataclass(frozen=True)
class Row:
    """One row at `line` (1-based; in Parquet and Arrow the row's number), of so many `bytes` as stored (0: unknown).

    One that cannot be read has no `values` but a `problem`, which is of a kind: the `reason`.
    """

    line: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    replaced: int = 0
    bytes: int = 0
    reason: str = "broken row"


@dataclass(frozen=True)
class Table:
    """All rows of one file, and its columns in order."""

    path: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]

    def column(self, name: str, flag: str) -> str:
        """`name`, if there is such a column; raises `ValueError` with the nearest one, `flag` being what to type."""
        return known_column(self.path, self.columns, name, flag)


def is_table(path: str) -> bool:
    return format_of(path)[0] in TABLES


def table(path: str, named: Collection[str] = ()) -> Table:
    """The whole table; `named` are columns that a person named, which shows whether a first line of CSV is a header.

    Raises `ValueError` at the first row that cannot be read, naming file and line, and for a file without rows.
    """
    if not is_table(path):
        raise ValueError(
            f"{path} is no table: give a file that ends in {', '.join('.' + kind for kind in TABLES)} (or these with .gz, .zst, .xz, .bz2)"
        )
    found = []
    for row in rows(path, named):
        if row.problem:
            raise ValueError(f"{path}, line {row.line}: {row.problem}")
        found.append(row)
    if not found:
        raise ValueError(f"{path} has no rows")
    return Table(path, tuple(found), columns_of(found))


def value_at(values: Mapping[str, Any], column: str) -> Any:
    """What stands in `column`, which may lie in others: `a.b` is `b` of `a` where no column is called `a.b`; None if there is none."""
    if column in values:
        return values[column]
    outer, dot, inner = column.partition(".")
    within = values.get(outer)
    return value_at(within, inner) if dot and isinstance(within, Mapping) else None


def has_column(found: Iterable[Row], column: str) -> bool:
    return any(column in row.values or value_at(row.values, column) is not None for row in found)


def columns_of(found: Iterable[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in found for name in row.values))


def known_column(path: str, columns: Collection[str], name: str, flag: str) -> str:
    if name not in columns:
        raise ValueError(f"{path} has no column {name!r} for {flag}{did_you_mean(name, columns)}")
    return name


def rows(path: str, named: Collection[str] = ()) -> Iterator[Row]:
    """Every row of the table in the file `path`; see `rows_of`."""
    require(path)
    with opened(path) as stream:
        kind = format_of(path)[0]
        if kind not in TEXTUAL and not stream.seekable():
            stream = io.BytesIO(stream.read())
        yield from rows_of(stream, kind, path, named)


ROW_LIMIT = 32 << 20


def rows_of(stream: IO[bytes], kind: str, source: str, named: Collection[str] = (), limit: int = ROW_LIMIT, line: int = 1) -> Iterator[Row]:
    """Every row of a table of this kind in its order; blank lines are no rows, and one of more than `limit` bytes is not held.

    `line`: where `stream` begins, if that is behind others of the table; of lines of JSON only.
    Raises `ValueError` when the table as a whole is damaged (cut-off compression, no table of its kind, binary).
    """
    match kind:
        case "parquet":
            return _parquet(stream, source)
        case "arrow" | "feather":
            return _arrow(stream, source)
    text = decompressed(stream, "", source)
    if line == 1:
        text = as_utf8(text)
    match kind:
        case "json":
            return _json(text, source, limit)
        case "csv":
            return _with_header(_csv(text, source, limit), named)
        case "tsv":
            return _with_header(_tsv(text, source, limit), named)
        case _:
            return _jsonl(text, source, limit, line)


@dataclass(frozen=True)
class Line:
    """Number, text, replaced characters and bytes of a line; the text of one that is too long is None."""

    number: int
    text: str | None
    replaced: int
    bytes: int


def _lines(stream: io.BufferedReader, source: str, limit: int, first: int = 1) -> Iterator[Line]:
    number = first - 1
    while raw := stream.readline(limit + 1):
        number += 1
        if number == 1 and b"\0" in raw[:SNIFFED]:
            raise ValueError(f"{source} is binary: its first line holds NUL bytes")
        if len(raw) <= limit or raw.endswith(b"\n"):
            text, replaced = decoded(raw)
            yield Line(number, text, replaced, len(raw))
        else:
            size = len(raw)
            while not raw.endswith(b"\n") and (raw := stream.readline(1 << 20)):
                size += len(raw)
            yield Line(number, None, 0, size)


def _too_long(line: int, size: int, limit: int) -> Row:
    return Row(line, problem=f"{size:,} bytes, but a row may have {limit:,}", bytes=size, reason="too long")


def _jsonl(stream: io.BufferedReader, source: str, limit: int, first: int) -> Iterator[Row]:
    for line in _lines(stream, source, limit, first):
        if line.text is None:
            yield _too_long(line.number, line.bytes, limit)
        elif line.text.strip():
            try:
                yield _row(line.number, json.loads(line.text), line.replaced, line.bytes)
            except json.JSONDecodeError as error:
                yield Row(line.number, problem=f"the JSON breaks at column {error.colno} ({error.msg})", bytes=line.bytes)
            except (ValueError, RecursionError) as error:
                yield Row(line.number, problem=f"the JSON cannot be read ({error})", bytes=line.bytes)


def _json(stream: io.BufferedReader, source: str, limit: int) -> Iterator[Row]:
    """A list of rows, or rows one after another; after a place where the JSON breaks nothing more can be read."""
    if b"\0" in stream.peek(SNIFFED)[:SNIFFED]:
        raise ValueError(f"{source} is binary: it holds NUL bytes")
    text = _Ahead(stream, limit)
    listed = text.next() == "["
    text.at += listed
    first, closed = True, not listed
    try:
        while mark := text.next():
            if listed and mark == "]" and not closed:
                closed = True
                text.at += 1
                continue
            if listed and closed:
                raise json.JSONDecodeError("text after the list's end", text.held, text.at)
            if listed and not first:
                if mark != ",":
                    raise json.JSONDecodeError("a comma is missing", text.held, text.at)
                text.at += 1
                text.next()
            line, (value, replaced, size) = text.line, text.value()
            yield _row(line, value, replaced, size) if size <= limit else _too_long(line, size, limit)
            first = False
        if not closed:
            raise json.JSONDecodeError("the list never ends", text.held, len(text.held))
    except json.JSONDecodeError as error:
        line, column = text.place(error.pos)
        yield Row(line, problem=f"the JSON breaks at column {column} ({error.msg})", bytes=text.rest())
    except _TooLong:
        line, size = text.line, text.rest()
        yield Row(line, problem=f"this row has more than {limit:,} bytes; it and what follows are lost", bytes=size, reason="too long")
    except (ValueError, RecursionError) as error:
        line = text.line
        yield Row(line, problem=f"the JSON cannot be read ({error})", bytes=text.rest())


class _TooLong(Exception):
    """A value of more bytes than the limit."""


BLANK = re.compile(r"[ \t\n\r]*")
TAIL = 16  # characters at the end of what is held that may be the beginning of something longer


class _Ahead:
    """JSON that is read as far as the next value needs: `held` from `at` on, which lies in `line`."""

    def __init__(self, stream: IO[bytes], limit: int):
        self.stream, self.limit = stream, limit
        self.held, self.at, self.line, self.size = "", 0, 1, 1 << 16
        self.broken, self.replaced, self.ended = b"", 0, False
        self.passed, self.column = 0, 0  # how far lines are counted, and the characters of the line that are held no more

    def more(self) -> bool:
        """Hold more, twice as much each time; what was read lets go."""
        if self.ended:
            return False
        self._count(self.at)
        newline = self.held.rfind("\n", 0, self.at)
        self.column = self.at - newline - 1 if newline >= 0 else self.column + self.at
        raw = self.broken + self.stream.read(max(self.size, len(self.held) - self.at))
        self.ended = len(raw) == len(self.broken)
        end = len(raw) if self.ended else _whole_characters(raw)
        text, replaced = decoded(raw[:end])
        self.held, self.at, self.passed, self.broken = self.held[self.at :] + text, 0, 0, raw[end:]
        self.replaced += replaced
        return True

    def _count(self, end: int) -> None:
        self.line, self.passed = self.line + self.held.count("\n", self.passed, end), end

    def next(self) -> str:
        """The next character that is not blank, which `at` then is the place of; empty at the end."""
        while True:
            found = BLANK.match(self.held, self.at)
            self.at = found.end() if found else self.at
            self._count(self.at)
            if self.at < len(self.held) or not self.more():
                return self.held[self.at : self.at + 1]

    def value(self) -> tuple[Any, int, int]:
        """The JSON value at `at`, the characters replaced since the last one, and its bytes; `at` moves behind it."""
        while True:
            try:
                value, end = DECODER.raw_decode(self.held, self.at)
                if end < len(self.held) or not self.more():
                    break
            except json.JSONDecodeError as error:
                unfinished = error.pos >= len(self.held) - TAIL or error.msg.startswith("Unterminated string")
                if not unfinished or not self.more():
                    raise
            if len(self.held) - self.at > self.limit:
                raise _TooLong
        size, replaced = len(self.held[self.at : end].encode("utf-8", "surrogatepass")), self.replaced
        self.at, self.replaced = end, 0
        return value, replaced, size

    def place(self, position: int) -> tuple[int, int]:
        """Line and column of a position in `held`, from 1."""
        newline = self.held.rfind("\n", 0, position)
        line = self.line + self.held.count("\n", self.passed, position)
        return line, position - newline if newline >= 0 else self.column + position + 1

    def rest(self) -> int:
        """The bytes from `at` to the end, which are read and forgotten."""
        size = len(self.held[self.at :].encode()) + len(self.broken)
        while data := self.stream.read(1 << 20):
            size += len(data)
        return size


DECODER = json.JSONDecoder()


def _whole_characters(raw: bytes) -> int:
    """The end of `raw` without a character of UTF-8 that is not whole."""
    for back in range(1, min(4, len(raw) + 1)):
        if raw[-back] >= 0xC0:
            return len(raw) - back
        if raw[-back] < 0x80:
            break
    return len(raw)


def _row(line: int, value, replaced: int, size: int) -> Row:
    match value:
        case dict():
            return Row(line, value, replaced=replaced, bytes=size)
        case str():
            return Row(line, {"text": value}, replaced=replaced, bytes=size)
        case _:
            return Row(line, problem=f"a row is an object with columns, but this is a {type(value).__name__}", bytes=size)


@dataclass(frozen=True)
class Cells:
    """The cells of a row, or its problem."""

    line: int
    cells: list[str]
    replaced: int = 0
    bytes: int = 0
    problem: Row | None = None


def _csv(stream: io.BufferedReader, source: str, limit: int) -> Iterator[Cells]:
    """Cells with quotes as in RFC 4180; semicolons separate where the first line has them and no comma."""
    csv.field_size_limit(2**31 - 1)
    lines = _lines(stream, source, limit)
    head = list(islice(lines, 1))
    separator = ";" if head and head[0].text and ";" in head[0].text and "," not in head[0].text else ","
    lines = chain(head, lines)
    while True:
        record = _Record(lines, limit)
        reader = csv.reader(record, delimiter=separator, strict=True)
        while True:
            record.begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except _TooLong:
                yield Cells(record.line, [], problem=_too_long(record.line, record.bytes, limit))
                break  # the reader still waits for the quote; another goes on with the next line
            except csv.Error as error:
                ends = "unexpected end" in str(error)
                problem = "a quote is opened here and never closed" if ends else f"the CSV breaks ({error})"
                yield Cells(record.line, [], problem=Row(record.line, problem=problem, bytes=record.bytes))
                if ends:
                    return
                continue
            if any(cell.strip() for cell in cells):
                yield Cells(record.line, cells, record.replaced, record.bytes)


class _Record(Iterator[str]):
    """The lines of one record after another, counted; one that grows beyond the limit is given up."""

    def __init__(self, lines: Iterator[Line], limit: int):
        self.lines, self.limit = lines, limit
        self.begin()

    def begin(self) -> None:
        self.line = self.bytes = self.replaced = 0

    def __next__(self) -> str:
        line = next(self.lines)
        self.line = self.line or line.number
        self.bytes += line.bytes
        self.replaced += line.replaced
        if line.text is None or self.bytes > self.limit + 1:
            raise _TooLong
        return line.text


def _tsv(stream: io.BufferedReader, source: str, limit: int) -> Iterator[Cells]:
    """Cells between tabs; quotes mean nothing here, as in most such files."""
    for line in _lines(stream, source, limit):
        if line.text is None:
            yield Cells(line.number, [], problem=_too_long(line.number, line.bytes, limit))
        elif line.text.strip():
            yield Cells(line.number, line.text.rstrip("\r\n").split("\t"), line.replaced, line.bytes)


def _with_header(every: Iterator[Cells], named: Collection[str]) -> Iterator[Row]:
    """The cells as rows; without a header the columns are called 1, 2, ..."""
    sample = list(islice(every, SAMPLE))
    good = [row.cells for row in sample if row.problem is None]
    if not good:
        names, header = [], False
    else:
        header = _is_header(good, named)
        names = [cell.strip() for cell in good[0]] if header else [str(i + 1) for i in range(len(good[0]))]
    for row in chain(sample, every):
        if row.problem is not None:
            yield row.problem
        elif header:
            header = False
        elif len(row.cells) != len(names):
            yield Row(row.line, problem=f"{counted(len(row.cells), 'column')}, but the first line has {len(names)}", bytes=row.bytes)
        else:
            yield Row(row.line, dict(zip(names, row.cells, strict=True)), replaced=row.replaced, bytes=row.bytes)


def counted(count: int, thing: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _is_header(sample: list[list[str]], named: Collection[str]) -> bool:
    """A first line is a header if it names a column that was asked for or is usual, or if it is all short words never met below it."""
    first = [cell.strip() for cell in sample[0]]
    if len(set(first)) < len(first) or not all(first):
        return False
    if any(cell in named for cell in first) or any(cell.lower() in TEXT + LABEL for cell in first):
        return True
    below = [set(column) for column in zip(*(row for row in sample[1:] if len(row) == len(first)), strict=True)]
    return all(re.fullmatch(r"[^\W\d][\w .-]{0,30}", cell) and len(cell.split()) <= 2 for cell in first) and not any(
        cell in column for cell, column in zip(first, below or [{cell} for cell in first], strict=True)
    )


BATCH_BYTES = 4 << 20


def _parquet(stream: IO[bytes], source: str) -> Iterator[Row]:
    arrow, parquet = extra("pyarrow", source), extra("pyarrow.parquet", source)
    try:
        file = parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        whole = file.metadata
        stored = sum(whole.row_group(i).total_byte_size for i in range(whole.num_row_groups))
        size = max(1, min(1024, BATCH_BYTES * max(1, whole.num_rows) // max(1, stored)))
        yield from _numbered(file.iter_batches(size))
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{source} is not a whole parquet file ({str(error).splitlines()[0]})") from None


def _arrow(stream: IO[bytes], source: str) -> Iterator[Row]:
    """Arrow's file format, which Feather is too, and its stream format, in which `datasets` saves."""
    arrow, ipc = extra("pyarrow", source), extra("pyarrow.ipc", source)
    magic = stream.read(6)
    stream.seek(0)
    try:
        if magic == b"ARROW1":
            file = ipc.open_file(stream)
            yield from _numbered(file.get_batch(i) for i in range(file.num_record_batches))
        else:
            yield from _numbered(ipc.open_stream(stream))
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{source} is not a whole Arrow file ({str(error).splitlines()[0]})") from None


def _numbered(batches: Iterable[Any]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        step = max(1, min(1024, BATCH_BYTES * max(1, batch.num_rows) // max(1, batch.nbytes)))
        for start in range(0, batch.num_rows, step):
            for values in batch.slice(start, step).to_pylist():
                number += 1
                yield Row(number, values)


def guess_text(path: str, sample: Collection[Row], without: Collection[str] = ()) -> str:
    """The column whose name is usual for text (text, content, body, ...), else the one with the longest strings on average.

    Raises `ValueError` naming the columns when none holds strings.
    """
    lengths: dict[str, list[int]] = {}
    for row in sample:
        for name, value in row.values.items():
            if isinstance(value, str) and name not in without:
                lengths.setdefault(name, []).append(len(value))
    for usual in TEXT:
        for name in lengths:
            if name.strip().lower() == usual:
                return name
    if not lengths:
        raise ValueError(f"{path} has no column of text among {', '.join(columns_of(sample)) or 'none'}: name it with --text-column")
    return max(lengths, key=lambda name: sum(lengths[name]) / max(1, len(sample)))


def guess_label(path: str, sample: Collection[Row], without: Collection[str] = ()) -> str:
    """The column whose name is usual for labels (label, class, category, ...), else the one with the fewest values that recur.

    Raises `ValueError` naming the columns when none looks like labels.
    """
    columns = [name for name in columns_of(sample) if name not in without]
    for usual in LABEL:
        for name in columns:
            if name.strip().lower() == usual:
                return name
    values = {name: [str(row.values.get(name)) for row in sample] for name in columns}
    recurring = {name: len(set(cells)) for name, cells in values.items() if 1 < len(set(cells)) <= max(2, len(cells) // 4)}
    if not recurring:
        raise ValueError(f"{path} has no column that looks like labels among {', '.join(columns_of(sample))}: name it with --label-column")
    return min(recurring, key=recurring.__getitem__)
