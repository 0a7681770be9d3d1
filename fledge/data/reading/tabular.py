"""Rows of a table -> documents: the text of one column each."""

from collections.abc import Iterator
from itertools import chain, islice

from fledge.data.documents import Item, Rejected
from fledge.data.reading.part import Part, documents
from fledge.data.tables import SAMPLE, columns_of, guess_text, has_column, known_column, rows_of, value_at


def text_rows(part: Part) -> Iterator[Item]:
    """Each row's text in the column that was named, or the one that looks like text; rows without text are rejected with their line."""
    asked = part.text_column
    every = rows_of(part.stream, part.kind, part.source, (asked,) if asked else (), part.limit)
    sample = list(islice(every, SAMPLE))
    good = [row for row in sample if not row.problem]
    if not sample:
        yield part.rejected("empty file", "no rows")
        return
    column = None
    if good:
        try:
            if asked and not has_column(good, asked):
                known_column(part.source, columns_of(good), asked, "--text-column")
            column = asked or guess_text(part.source, good)
        except ValueError as error:
            yield part.rejected("no column", str(error))
            return
    for row in chain(sample, every):
        value = value_at(row.values, column) if column else None
        if row.problem:
            yield Rejected(row.reason, part.source, row.line, row.problem, row.bytes)
        elif value is None or value == "":
            yield Rejected("empty text", part.source, row.line, bytes=row.bytes)
        elif not isinstance(value, str):
            yield Rejected("no text", part.source, row.line, f"{column} is a {type(value).__name__}", row.bytes)
        elif not value.strip():
            yield Rejected("empty text", part.source, row.line, bytes=row.bytes)
        else:
            yield from documents(value, part.source, part.limit, row.line, column, row.replaced)
