"""WARC and WET files of web crawls -> one document for each page, with fastwarc."""

import io
from collections.abc import Iterator
from typing import Any

from fledge.data.documents import Item, Rejected
from fledge.data.files import MissingLibrary, decoded, extra, known_encoding
from fledge.data.reading.pages import page_text
from fledge.data.reading.part import Part, documents, quiet

PAGES = ("text/html", "application/xhtml+xml")


def crawl(part: Part) -> Iterator[Item]:
    """What was answered under each URL, or its text where the crawl holds that; the URL is the document's source."""
    warc = extra("fastwarc.warc", part.source)
    kinds = warc.WarcRecordType.response | warc.WarcRecordType.resource | warc.WarcRecordType.conversion
    found = False
    for record in warc.ArchiveIterator(_Steps(part.stream), record_types=kinds, parse_http=True, auto_decode="all", stream_detect=False):
        found = True
        source = record.headers.get("WARC-Target-URI") or f"{part.source}, {record.record_id}"
        try:
            with quiet():
                page = _page(record, source, part.limit)
        except MissingLibrary:
            raise
        except Exception as error:
            page = Rejected("damaged", source, detail=str(error) or type(error).__name__, bytes=_stored(record))
        yield from [page] if isinstance(page, Rejected) else documents(page[0], source, part.limit, replaced=page[1])
    if not found:
        yield part.rejected("no text", "it holds no record of a page")


class _Steps:
    """A stream whose reads may be short, so that what lies before a damaged place is given."""

    def __init__(self, stream: io.BufferedReader):
        self.read, self.tell = stream.read1, stream.tell


def _stored(record: Any) -> int:
    length = record.headers.get("Content-Length") or ""
    return int(length) if length.isdecimal() else 0


def _page(record: Any, source: str, limit: int) -> tuple[str, int] | Rejected:
    """The text of one record and its invalid characters."""

    def rejected(reason: str, detail: str) -> Rejected:
        return Rejected(reason, source, detail=detail, bytes=_stored(record))

    answer = record.http_headers if record.is_http_parsed else None
    if answer is not None and answer.status_code != 200:
        return rejected("not found", f"the server answered {answer.status_code}")
    kind = record.http_content_type if answer is not None else record.headers.get("Content-Type")
    kind = (kind or "text/html").partition(";")[0].strip().lower()
    if kind not in (*PAGES, "text/plain"):
        return rejected("no text", kind)
    raw = record.reader.read(limit + 1)
    if len(raw) > limit:
        return rejected("too long", f"a page may have {limit:,} bytes")
    if len(raw) < record.content_length and (
        answer is None or not {"content-encoding", "transfer-encoding"} & {n.lower() for n in answer.asdict()}
    ):
        return rejected("damaged", f"it ends after {len(raw):,} of {record.content_length:,} bytes")
    charset = record.http_charset if answer is not None else None
    text, replaced = page_text(raw, source, charset) if kind in PAGES else decoded(raw, known_encoding(charset))
    return (text, replaced) if text.strip() else rejected("no text", "the page shows none")
