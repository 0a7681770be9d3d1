"""Which reader a kind of file has, and what becomes of a reader's failures."""

from collections.abc import Iterator
from dataclasses import replace

from fledge.data.documents import Item
from fledge.data.files import SNIFFED, MissingLibrary, as_utf8
from fledge.data.reading.part import Part, Reader, whole_text
from fledge.data.reading.tabular import text_rows
from fledge.data.tables import TABLES, TEXTUAL

READERS: dict[str, Reader] = dict.fromkeys(TABLES, text_rows)


def items_of(part: Part) -> Iterator[Item]:
    """The documents of one file and what of it gives none; whatever goes wrong in a library becomes a rejection.

    Raises `MissingLibrary` where this installation cannot read it.
    """
    begun = False
    try:
        for item in _items(part):
            begun = True
            yield item
    except (MissingLibrary, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        reason = "unreadable" if isinstance(error, OSError) and error.errno else "damaged"
        detail = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        yield replace(part, size=0 if begun else part.size).rejected(reason, detail.strip().splitlines()[0][:500])


def _items(part: Part) -> Iterator[Item]:
    reader = READERS.get(part.kind, whole_text)
    if not part.stream.peek(1):
        yield part.rejected("empty file")
    elif reader is whole_text or part.kind in TEXTUAL:
        part = replace(part, stream=as_utf8(part.stream))
        if b"\0" in part.stream.peek(SNIFFED)[:SNIFFED]:
            yield part.rejected("binary", "it holds NUL bytes")
        else:
            yield from reader(part)
    else:
        yield from reader(part)
