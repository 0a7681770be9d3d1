"""PDF and Word -> text, with pypdf and python-docx."""

import zipfile
from collections.abc import Iterator
from typing import Any

from fledge.data.documents import Item, Rejected
from fledge.data.files import extra
from fledge.data.reading.part import Part, documents, quiet, seekable


def pdf(part: Part) -> Iterator[Item]:
    """The text of all pages, a blank line between them; a page that cannot be read is rejected alone, with its number as line."""
    library = extra("pypdf", part.source)
    with seekable(part) as file:
        with quiet():
            reader = library.PdfReader(file)
            if reader.is_encrypted and not _unlocked(reader):
                yield part.rejected("encrypted", "its password is needed")
                return
            count = len(reader.pages)
        held, size, given = list[str](), 0, False
        for number in range(count):
            text, wrong = _page(reader, number)
            if wrong:
                yield Rejected("damaged page", part.source, number + 1, wrong)
                given = True
            if held and size + len(text) > part.limit // 4:  # four bytes each at the most
                yield from documents("\n\n".join(held), part.source, part.limit)
                held, size, given = [], 0, True
            if text:
                held.append(text)
                size += len(text) + 2
        if held:
            yield from documents("\n\n".join(held), part.source, part.limit)
        elif not given:
            yield part.rejected("no text", "its pages hold none; were they scanned?")


def _page(reader: Any, number: int) -> tuple[str, str]:
    """The text of a page; else what is wrong with it, which pypdf either raises, or logs and gives an empty page."""
    heard = list[str]()
    with quiet(heard):
        try:
            text = reader.pages[number].extract_text().strip()
        except Exception as error:
            return "", str(error) or type(error).__name__
    return (text, "") if text or not heard else ("", heard[0])


def _unlocked(reader: Any) -> bool:
    try:
        return bool(reader.decrypt(""))  # many may be read without one
    except Exception:
        return False


WORD_BYTES = 128 << 20


def word(part: Part) -> Iterator[Item]:
    """Paragraphs, headings and tables (cells apart by tabs) in their order, a blank line between them."""
    library = extra("docx", part.source)
    with seekable(part) as file:
        with zipfile.ZipFile(file) as parts:  # python-docx reads all of it at once
            size = sum(info.file_size for info in parts.infolist())
        if size > WORD_BYTES:
            yield part.rejected("too long", f"it unpacks to {size:,} bytes, but may to {WORD_BYTES:,}")
            return
        file.seek(0)
        with quiet():
            text = _blocks(library.Document(file))
    if text.strip():
        yield from documents(text, part.source, part.limit)
    else:
        yield part.rejected("no text", "it holds none")


def _blocks(holder: Any) -> str:
    blocks = (_table(block) if hasattr(block, "rows") else block.text for block in holder.iter_inner_content())
    return "\n\n".join(block for block in blocks if block.strip())


def _table(table: Any) -> str:
    """A line for each row; a cell that spans several columns stands once."""
    rows = ([" ".join(_blocks(cell).split()) for cell in dict.fromkeys(row.cells)] for row in table.rows)
    return "\n".join("\t".join(cells) for cells in rows)
