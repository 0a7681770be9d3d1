"""E-mail, single or in an mbox -> subject and readable body."""

import email
import email.policy
import re
from collections.abc import Iterator
from email.message import EmailMessage

from fledge.data.documents import Item, Rejected
from fledge.data.files import MissingLibrary, decoded, known_encoding
from fledge.data.reading.pages import page_text
from fledge.data.reading.part import PIECE, Part, documents, quiet


def message(part: Part) -> Iterator[Item]:
    """The one message of an `.eml` file."""
    yield from _message(part.stream.read(part.limit), part.source, None, part.size, part.limit)


def mailbox(part: Part) -> Iterator[Item]:
    """Every message of an mbox, `line` being where it begins. Of a message beyond the limit the end (attachments) is not held."""
    raw, held, size, begins, number, blank = list[bytes](), 0, 0, 0, 0, True
    for line in _lines(part):
        number += line.endswith(b"\n")
        if blank and SEPARATOR.match(line):
            if begins:
                yield from _message(b"".join(raw), part.source, begins, size, part.limit)
            raw, held, size, begins = [], 0, 0, number
        elif begins:
            if held + len(line) <= part.limit:
                raw.append(line[1:] if QUOTED.match(line) else line)
                held += len(line)
            size += len(line)
        else:
            yield part.rejected("damaged", "its first line does not begin a message as in an mbox")
            return
        blank = line in (b"\n", b"\r\n")
    if begins:
        yield from _message(b"".join(raw), part.source, begins, size, part.limit)


SEPARATOR = re.compile(rb"From \S.*\d\d:\d\d")  # the day and time of it always follow: prose that begins so has none
QUOTED = re.compile(rb">+From ")


def _lines(part: Part) -> Iterator[bytes]:
    while line := part.stream.readline(PIECE):
        yield line


def _message(raw: bytes, source: str, line: int | None, size: int, limit: int) -> Iterator[Item]:
    try:
        with quiet():
            parsed = email.message_from_bytes(raw, policy=email.policy.default)
            assert isinstance(parsed, EmailMessage)
            subject, (body, replaced) = _subject(parsed), _body(parsed, source)
            files = [(one.get_filename() or "without a name", len(_content(one))) for one in parsed.walk() if _is_text_file(one)]
            kinds = sorted({one.get_content_type() for one in parsed.walk() if not one.is_multipart()})
    except MissingLibrary:
        raise
    except Exception as error:
        yield Rejected("damaged", source, line, str(error) or type(error).__name__, size)
        return
    if body.strip():
        yield from documents("\n\n".join(piece for piece in (subject, body.strip()) if piece), source, limit, line, replaced=replaced)
    else:
        yield Rejected("no text", source, line, f"the message has no readable body, but {', '.join(kinds)}", size)
    for name, length in files:
        yield Rejected("attachment", source, line, f"{name}: save it beside the messages to have it read", length)


def _subject(parsed: EmailMessage) -> str:
    return " ".join(str(parsed["subject"] or "").split())


def _body(parsed: EmailMessage, source: str) -> tuple[str, int]:
    """The plain text of a message, else what its HTML shows, and the invalid characters."""
    part = parsed.get_body(("plain", "html"))
    if not isinstance(part, EmailMessage):
        return "", 0
    raw, charset = _content(part), part.get_content_charset()
    if part.get_content_type() == "text/html":
        return page_text(raw, source, charset, main=False)
    return decoded(raw, known_encoding(charset))


def _content(part: EmailMessage) -> bytes:
    raw = part.get_payload(decode=True)
    return raw if isinstance(raw, bytes) else b""


def _is_text_file(part: EmailMessage) -> bool:
    return part.is_attachment() and part.get_content_maintype() == "text"
