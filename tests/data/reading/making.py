"""Files of every kind, made of known text."""

import io
import zipfile
from collections.abc import Sequence
from email.message import EmailMessage

import docx


def pdf(pages: Sequence[str | None]) -> bytes:
    """One page for each text, a line of it on each line; the content of a None is broken."""
    contents = []
    for page in pages:
        shown = "".join(
            f"({line.replace(chr(92), chr(92) * 2).replace('(', chr(92) + '(').replace(')', chr(92) + ')')}) Tj T*\n"
            for line in (page or "").splitlines()
        )
        contents.append(f"BT /F1 12 Tf 14 TL 50 700 Td\n{shown}ET".encode("latin-1"))
    first = 4
    kids = " ".join(f"{first + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for i, (page, content) in enumerate(zip(pages, contents, strict=True)):
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {resources} /Contents {first + 2 * i + 1} 0 R >>".encode())
        packed = " /Filter /FlateDecode" if page is None else ""
        objects.append(f"<< /Length {len(content)}{packed} >>\nstream\n".encode() + content + b"\nendstream")
    out, places = io.BytesIO(), []
    out.write(b"%PDF-1.4\n")
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n".encode() + body + b"\nendobj\n")
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.writelines(f"{place:010} 00000 n \n".encode() for place in places)
    out.write(f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def word(heading: str, paragraphs: Sequence[str], rows: Sequence[Sequence[str]] = ()) -> bytes:
    made = docx.Document()
    made.add_heading(heading)
    for text in paragraphs:
        made.add_paragraph(text)
    if rows:
        table = made.add_table(len(rows), len(rows[0]))
        for row, texts in zip(table.rows, rows, strict=True):
            for cell, text in zip(row.cells, texts, strict=True):
                cell.text = text
        made.add_paragraph("after the table")
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def epub(chapters: dict[str, str], extra: dict[str, str] | None = None) -> bytes:
    """A book whose spine has the chapters in this order, though its files lie in the reverse one."""
    items = "".join(f'<item id="c{i}" href="text/{name}" media-type="application/xhtml+xml"/>' for i, name in enumerate(chapters))
    spine = "".join(f'<itemref idref="c{i}"/>' for i in range(len(chapters)))
    files = {
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
        "OEBPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><manifest>'
        f'<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>{items}</manifest>'
        f'<spine><itemref idref="nav"/>{spine}</spine></package>',
        "OEBPS/nav.xhtml": "<html><body><nav>the contents</nav></body></html>",
        **{f"OEBPS/text/{name}": f"<html><body>{body}</body></html>" for name, body in reversed(chapters.items()) if body},
        **(extra or {}),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        for name, text in files.items():
            book.writestr(name, text)
    return out.getvalue()


def mail(subject: str, body: str | None, html: str | None = None, attached: Sequence[tuple[str, str, bytes]] = ()) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "Ann <ann@example.org>", "bob@example.org", subject
    if body is not None:
        made.set_content(body)
    if html is not None and body is not None:
        made.add_alternative(html, subtype="html")
    elif html is not None:
        made.set_content(html, subtype="html")
    for name, kind, data in attached:
        main, sub = kind.split("/")
        made.add_attachment(data, main, sub, filename=name)
    return made


def record(kind: str, url: str, body: bytes, form: str = "application/http; msgtype=response") -> bytes:
    """One record of a WARC file."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Record-ID: <urn:uuid:{abs(hash(url)):036}>\r\n"
        f"WARC-Date: 2026-01-01T00:00:00Z\r\nContent-Type: {form}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def answer(body: bytes, kind: str = "text/html; charset=utf-8", status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


def tables(rows: Sequence[dict]) -> dict[str, bytes]:
    """The rows as Parquet, as Arrow's file and stream, and as Feather"""
    import pyarrow as arrow
    import pyarrow.feather as feather
    import pyarrow.parquet as parquet

    table = arrow.Table.from_pylist(rows)
    made = {}
    for name in ("parquet", "file.arrow", "stream.arrow", "feather"):
        sink = io.BytesIO()
        match name:
            case "parquet":
                parquet.write_table(table, sink)
            case "file.arrow" | "stream.arrow":
                opened = arrow.ipc.new_file if name == "file.arrow" else arrow.ipc.new_stream
                with opened(sink, table.schema) as writer:
                    writer.write_table(table)
            case _:
                feather.write_feather(table, sink)
        made[name] = sink.getvalue()
    return made
