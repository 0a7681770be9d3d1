"""Rows of a table -> documents: the text of one column each."""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain, islice

from fledge.data.documents import Item, Rejected
from fledge.data.reading.part import Part, documents, seekable
from fledge.data.tables import SAMPLE, TEXTUAL, Row, columns_of, guess_text, has_column, known_column, rows_of, value_at


def text_rows(part: Part) -> Iterator[Item]:
    """The rows of a table."""
    named = (part.text_column,) if part.text_column else ()
    with nullcontext(part.stream) if part.kind in TEXTUAL else seekable(part) as stream:
        every, sample = rows_of(stream, part.kind, part.source, named, part.limit, part.span.line), None
        if part.span.start and part.begun is not None:
            with part.begun() as begun:
                sample = list(islice(rows_of(begun, part.kind, part.source, named, part.limit), SAMPLE))
        yield from row_documents(every, part.source, part.text_column, part.limit, part.size, sample)


def row_documents(
    every: Iterator[Row], source: str, asked: str | None, limit: int, size: int = 0, first: list[Row] | None = None
) -> Iterator[Item]:
    """Each row's text in the column that was asked for, or the one that looks like text; a row without any is rejected with its line.

    A table that has no rows or no such column is rejected whole, with its `size`; `first`: its first rows, where others were asked for.
    """
    sample = list(islice(every, SAMPLE)) if first is None else first
    good = [row for row in sample if not row.problem]
    if not sample:
        yield Rejected("empty file", source, detail="no rows", bytes=size)
        return
    column = None
    if good:
        try:
            if asked and not has_column(good, asked):
                known_column(source, columns_of(good), asked, "--text-column")
            column = asked or guess_text(source, good)
        except ValueError as error:
            if first is None:
                yield Rejected("no column", source, detail=str(error), bytes=size)
            return
    for row in chain(sample, every) if first is None else every:
        value = value_at(row.values, column) if column else None
        if row.problem:
            yield Rejected(row.reason, source, row.line, row.problem, row.bytes)
        elif value is None or not str(value).strip():
            yield Rejected("empty text", source, row.line, bytes=row.bytes)
        elif not isinstance(value, str):
            yield Rejected("no text", source, row.line, f"{column} is a {type(value).__name__}", row.bytes)
        else:
            yield from documents(value, source, limit, row.line, column, row.replaced)
