"""Which reader a kind of file has, and what becomes of a reader's failures."""

import re
from collections.abc import Iterator
from dataclasses import replace

from fledge.data.documents import Item
from fledge.data.files import SNIFFED, MissingLibrary, as_utf8
from fledge.data.reading.archives import tarred, zipped
from fledge.data.reading.crawls import crawl
from fledge.data.reading.mail import mailbox, message
from fledge.data.reading.office import pdf, word
from fledge.data.reading.pages import epub, html
from fledge.data.reading.part import Part, Reader, whole_text
from fledge.data.reading.tabular import text_rows
from fledge.data.tables import TABLES, TEXTUAL

READERS: dict[str, Reader] = {
    **dict.fromkeys(TABLES, text_rows),
    **dict.fromkeys(("html", "htm", "xhtml"), html),
    "epub": epub,
    "pdf": pdf,
    "docx": word,
    "eml": message,
    "mbox": mailbox,
    "warc": crawl,
    "wet": crawl,
    "zip": lambda part: zipped(part, items_of),
    "tar": lambda part: tarred(part, items_of),
}
# What would pass for text or for an archive, and what to make of it.
OTHERS = {
    "rtf": "save it as .docx", "doc": "save it as .docx", "odt": "save it as .docx", "xlsx": "save its sheets as .csv",
    "pptx": "save it as .pdf",
}  # fmt: skip
UNTOLD = ("", "php", "asp", "aspx", "jsp", "cgi")  # endings, of URLs above all, that do not tell what comes


def items_of(part: Part) -> Iterator[Item]:
    """The documents of one file and what of it gives none; whatever goes wrong in a library becomes a rejection.

    Raises `MissingLibrary` where this installation cannot read it, and `ConnectionError` where its transfer is interrupted.
    """
    begun = False
    try:
        for item in _items(part):
            begun = True
            yield item
    except (MissingLibrary, ConnectionError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        reason = "unreadable" if isinstance(error, OSError) and error.errno else "damaged"
        detail = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        yield replace(part, size=0 if begun else part.size).rejected(reason, detail.strip().splitlines()[0][:500])


def is_text(kind: str) -> bool:
    """Whether files of this kind are read as the text that they are."""
    return kind not in UNTOLD and kind not in OTHERS and READERS.get(kind, whole_text) is whole_text


def _items(part: Part) -> Iterator[Item]:
    if part.span.start:  # of what was looked at where it begins
        yield from READERS.get(part.kind, whole_text)(part)
        return
    head = part.stream.peek(SNIFFED)[:SNIFFED]
    if part.kind in UNTOLD:
        page = re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)\b", head, re.IGNORECASE)
        part = replace(part, kind="pdf" if head.startswith(b"%PDF-") else "html" if page else "")
    reader = READERS.get(part.kind, whole_text)
    if not head:
        yield part.rejected("empty file")
    elif part.kind in OTHERS:
        yield part.rejected("no reader", OTHERS[part.kind])
    elif reader is whole_text or part.kind in TEXTUAL:
        if (stream := as_utf8(part.stream)) is not part.stream:
            part = replace(part, stream=stream)
        if b"\0" in part.stream.peek(SNIFFED)[:SNIFFED]:
            yield part.rejected("binary", "it holds NUL bytes")
        else:
            yield from reader(part)
    else:
        yield from reader(part)
