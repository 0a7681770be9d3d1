"""HTML and EPUB -> text, with resiliparse."""

import codecs
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree

from fledge.data.documents import Item, Rejected
from fledge.data.files import MARKS, SNIFFED, decoded, extra
from fledge.data.reading.part import Part, documents, quiet, seekable


def html(part: Part) -> Iterator[Item]:
    """The title and the main content of a page."""
    raw = part.stream.read(part.limit + 1)
    if len(raw) > part.limit:
        yield part.rejected("too long", f"a page may have {part.limit:,} bytes")
    elif b"\0" in raw[:SNIFFED] and not marked(raw):
        yield part.rejected("binary", "it holds NUL bytes")
    else:
        text, replaced = page_text(raw, part.source)
        if text.strip():
            yield from documents(text, part.source, part.limit, replaced=replaced)
        else:
            yield part.rejected("no text", "the page shows none")


def page_text(raw: bytes, source: str, declared: str | None = None, main: bool = True) -> tuple[str, int]:
    """The text of a page, its main content alone or all of it, and its invalid characters; `declared` is the charset that came with it."""
    extra("resiliparse", source)
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    page, replaced = decoded(raw, encoding_of(raw, declared))
    with quiet():
        tree = HTMLTree.parse(page)
        title = " ".join((tree.title or "").split()) if main else ""
        found = extract_plain_text(tree, main_content=main, alt_texts=False)
        if main and not found.strip():  # all that there is stands in what looks like a frame
            found = extract_plain_text(tree, main_content=False, alt_texts=False)
    return (f"{title}\n\n{found}" if title and title not in found[: 2 * len(title) + 100] else found), replaced


def marked(raw: bytes) -> str | None:
    """The encoding that a byte order mark tells."""
    if raw.startswith(codecs.BOM_UTF8):
        return "utf-8"
    return next((encoding for mark, encoding in MARKS if raw.startswith(mark)), None)


CHARSET = re.compile(rb"""<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)


def encoding_of(raw: bytes, declared: str | None = None) -> str:
    """Of a page: what its mark says, else what came with it, else what it says itself, else UTF-8 (WHATWG, "determining the encoding")."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    if encoding := marked(raw):
        return encoding.removesuffix("-le").removesuffix("-be")  # whose decoders drop the mark
    found = CHARSET.search(raw[:4096])
    for label in (declared, found[1].decode("ascii", "replace") if found else None):
        name = map_encoding_to_html5(label, fallback_utf8=False) if label else None
        if name and not name.lower().startswith(("utf-16", "utf-32")):  # it could not have been read so far
            return name
    return "utf-8"


def epub(part: Part) -> Iterator[Item]:
    """The chapters of a book in the order of its spine, one document each."""
    with seekable(part) as file, zipfile.ZipFile(file) as book:
        chapters, sealed = _spine(book), _sealed(book)
        for name in chapters:
            source = f"{part.source}/{name}"
            try:
                size = book.getinfo(name).file_size
                if name in sealed:
                    yield Rejected("encrypted", source, bytes=size)
                elif size > part.limit:
                    yield Rejected("too long", source, detail=f"a chapter may have {part.limit:,} bytes", bytes=size)
                else:
                    text, replaced = page_text(book.read(name), source, main=False)
                    yield from _chapter(text, source, part.limit, replaced, size)
            except KeyError:
                yield Rejected("damaged", source, detail="the book names this chapter, but does not hold it")
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, zlib.error) as error:
                yield Rejected("damaged", source, detail=str(error))
        if not chapters:
            yield part.rejected("no text", "the book has no chapters")


def _chapter(text: str, source: str, limit: int, replaced: int, size: int) -> Iterator[Item]:
    if text.strip():
        yield from documents(text, source, limit, replaced=replaced)
    else:
        yield Rejected("no text", source, detail="the chapter shows none", bytes=size)


CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
PACKAGE = "{http://www.idpf.org/2007/opf}"
PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def _spine(book: zipfile.ZipFile) -> list[str]:
    """The names of the chapters' files, without the table of contents."""
    container = ElementTree.fromstring(_small(book, "META-INF/container.xml"))
    root = next((found.get("full-path") for found in container.iter(f"{CONTAINER}rootfile")), None)
    if root is None:
        raise ValueError("META-INF/container.xml names no book")
    package = ElementTree.fromstring(_small(book, root))
    files = {
        item.get("id"): posixpath.normpath(posixpath.join(posixpath.dirname(root), unquote(item.get("href") or "")))
        for item in package.iter(f"{PACKAGE}item")
        if item.get("media-type") in PAGES and "nav" not in (item.get("properties") or "").split()
    }
    order = [files.get(item.get("idref")) for item in package.iter(f"{PACKAGE}itemref")]
    return list(dict.fromkeys(name for name in order if name is not None))


def _sealed(book: zipfile.ZipFile) -> set[str]:
    """The files that a shop's protection has encrypted."""
    if "META-INF/encryption.xml" not in book.namelist():
        return set()
    tree = ElementTree.fromstring(_small(book, "META-INF/encryption.xml"))
    return {unquote(found.get("URI") or "") for found in tree.iter("{http://www.w3.org/2001/04/xmlenc#}CipherReference")}


def _small(book: zipfile.ZipFile, name: str) -> bytes:
    if name not in book.namelist():
        raise ValueError(f"it holds no {name}, which every EPUB has")
    if book.getinfo(name).file_size > 1 << 24:
        raise ValueError(f"its {name} has more than 16 MB")
    return book.read(name)
