"""Rows of `.jsonl`, `.json`, `.csv`, `.tsv` and `.parquet` files, with line numbers; which column holds what is guessed."""

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from fledge.arch.record import did_you_mean
from fledge.data.files import SNIFFED, decoded, extra, format_of, opened, require

TABLES = ("jsonl", "ndjson", "json", "csv", "tsv", "parquet")
TEXT = ("text", "content", "body", "document", "article", "sentence", "message", "review", "passage", "story", "code")
LABEL = ("label", "labels", "class", "category", "target", "sentiment", "topic", "intent", "type", "tag", "y")
SAMPLE = 200


@dataclass(frozen=True)
class Row:
    """One row at `line` (1-based; parquet: the row's number); one that cannot be read has no `values` but a `problem`."""

    line: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    replaced: int = 0


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
            f"{path} is no table: give a file that ends in {', '.join('.' + kind for kind in TABLES)} (or these with .gz, .zst)"
        )
    found = []
    for row in rows(path, named):
        if row.problem:
            raise ValueError(f"{path}, line {row.line}: {row.problem}")
        found.append(row)
    if not found:
        raise ValueError(f"{path} has no rows")
    return Table(path, tuple(found), columns_of(found))


def columns_of(found: Iterable[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in found for name in row.values))


def known_column(path: str, columns: Collection[str], name: str, flag: str) -> str:
    if name not in columns:
        raise ValueError(f"{path} has no column {name!r} for {flag}{did_you_mean(name, columns)}")
    return name


def rows(path: str, named: Collection[str] = ()) -> Iterator[Row]:
    """Every row of a table in its order; blank lines are no rows.

    Raises `ValueError` when the file as a whole is damaged (cut-off compression, no table of its kind, binary).
    """
    require(path)
    match format_of(path)[0]:
        case "jsonl" | "ndjson":
            return _jsonl(path)
        case "json":
            return _json(path)
        case "csv":
            return _with_header(path, _csv(path), named)
        case "tsv":
            return _with_header(path, _tsv(path), named)
        case _:
            return _parquet(path)


def _lines(path: str) -> Iterator[tuple[int, str, int]]:
    """Number, text and replaced characters of each line."""
    with opened(path) as stream:
        for number, raw in enumerate(stream, 1):
            if number == 1 and b"\0" in raw[:SNIFFED]:
                raise ValueError(f"{path} is binary: its first line holds NUL bytes")
            yield number, *decoded(raw)


def _jsonl(path: str) -> Iterator[Row]:
    for number, text, replaced in _lines(path):
        if text.strip():
            try:
                yield _row(number, json.loads(text), replaced)
            except json.JSONDecodeError as error:
                yield Row(number, problem=f"the JSON breaks at column {error.colno} ({error.msg})")
            except (ValueError, RecursionError) as error:
                yield Row(number, problem=f"the JSON cannot be read ({error})")


def _json(path: str) -> Iterator[Row]:
    """A list of rows, or rows one after another; after a place where the JSON breaks nothing more can be read."""
    with opened(path) as stream:
        raw = stream.read()
    if b"\0" in raw[:SNIFFED]:
        raise ValueError(f"{path} is binary: it holds NUL bytes")
    text, replaced = decoded(raw)
    decoder = json.JSONDecoder()
    at, line, counted = _skip_blank(text, 0), 1, 0
    listed = text[at : at + 1] == "["
    at, first, closed = at + listed, True, not listed
    try:
        while (at := _skip_blank(text, at)) < len(text):
            if listed and text[at] == "]" and not closed:
                closed, at = True, at + 1
                continue
            if listed and closed:
                raise json.JSONDecodeError("text after the list's end", text, at)
            if listed and not first:
                if text[at] != ",":
                    raise json.JSONDecodeError("a comma is missing", text, at)
                at = _skip_blank(text, at + 1)
            line, counted = line + text.count("\n", counted, at), at
            value, at = decoder.raw_decode(text, at)
            yield _row(line, value, replaced if first else 0)
            first = False
        if not closed:
            raise json.JSONDecodeError("the list never ends", text, len(text))
    except json.JSONDecodeError as error:
        yield Row(error.lineno, problem=f"the JSON breaks at column {error.colno} ({error.msg})")
    except (ValueError, RecursionError) as error:
        yield Row(line, problem=f"the JSON cannot be read ({error})")


BLANK = re.compile(r"\s*")


def _skip_blank(text: str, at: int) -> int:
    found = BLANK.match(text, at)
    return found.end() if found else at


def _row(line: int, value, replaced: int) -> Row:
    match value:
        case dict():
            return Row(line, value, replaced=replaced)
        case str():
            return Row(line, {"text": value}, replaced=replaced)
        case _:
            return Row(line, problem=f"a row is an object with columns, but this is a {type(value).__name__}")


Cells = tuple[int, list[str], str, int]  # line, cells, problem, replaced


def _csv(path: str) -> Iterator[Cells]:
    """Cells with quotes as in RFC 4180; semicolons separate where the first line has them and no comma."""
    csv.field_size_limit(2**31 - 1)
    source = _lines(path)
    head = list(islice(source, 1))
    replaced = 0

    def texts() -> Iterator[str]:
        nonlocal replaced
        for _, text, count in chain(head, source):
            replaced += count
            yield text

    separator = ";" if head and ";" in head[0][1] and "," not in head[0][1] else ","
    reader = csv.reader(texts(), delimiter=separator, strict=True)
    while True:
        line, before = reader.line_num + 1, replaced
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = "a quote is opened here and never closed" if "unexpected end" in str(error) else f"the CSV breaks ({error})"
            yield line, [], problem, 0
            if "unexpected end" in str(error):
                return
            continue
        if any(cell.strip() for cell in cells):
            yield line, cells, "", replaced - before


def _tsv(path: str) -> Iterator[Cells]:
    """Cells between tabs; quotes mean nothing here, as in most such files."""
    for number, text, replaced in _lines(path):
        if text.strip():
            yield number, text.rstrip("\r\n").split("\t"), "", replaced


def _with_header(path: str, cells: Iterator[Cells], named: Collection[str]) -> Iterator[Row]:
    """The cells as rows; without a header the columns are called 1, 2, ..."""
    sample = list(islice(cells, SAMPLE))
    good = [row for _, row, problem, _ in sample if not problem]
    if not good:
        names, header = [], False
    else:
        header = _is_header(good, named)
        names = [cell.strip() for cell in good[0]] if header else [str(i + 1) for i in range(len(good[0]))]
    for line, row, problem, replaced in chain(sample, cells):
        if problem:
            yield Row(line, problem=problem)
        elif header:
            header = False
        elif len(row) != len(names):
            yield Row(line, problem=f"{counted(len(row), 'column')}, but the first line has {len(names)}")
        else:
            yield Row(line, dict(zip(names, row, strict=True)), replaced=replaced)


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


def _parquet(path: str) -> Iterator[Row]:
    arrow, parquet = extra("pyarrow", path), extra("pyarrow.parquet", path)
    with opened(path) as stream:
        source = io.BytesIO(stream.read()) if format_of(path)[1] else stream
        try:
            number = 0
            for batch in parquet.ParquetFile(source).iter_batches(1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, values)
        except (arrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a whole parquet file ({str(error).splitlines()[0]})") from None


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
