"""Zip and tar: every member is read like a file, `archive.zip/its/name` being its source."""

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import IO

from fledge.data.documents import Item, Rejected
from fledge.data.files import decompressed, format_of, shown
from fledge.data.reading.part import Part, seekable

NESTED = 3  # archives in archives, beyond which it is a trap
ItemsOf = Callable[[Part], Iterator[Item]]


def zipped(part: Part, items_of: ItemsOf) -> Iterator[Item]:
    """The members of a `.zip` in their order; directories and what is hidden are no members."""
    with seekable(part) as file, zipfile.ZipFile(file) as archive:
        found = False
        for info in archive.infolist():
            if info.is_dir() or hidden(info.filename):
                continue
            found = True
            if info.flag_bits & 1:
                yield Rejected("encrypted", _source(part, info.filename), detail="its password is needed", bytes=info.file_size)
                continue
            try:
                member = archive.open(info)
            except Exception as error:  # the archive's other members may be sound
                yield Rejected("damaged", _source(part, info.filename), detail=str(error), bytes=info.file_size)
                continue
            with member:
                yield from _member(part, info.filename, info.file_size, member, items_of)
        if not found:
            yield part.rejected("empty file", "the archive holds no files")


def tarred(part: Part, items_of: ItemsOf) -> Iterator[Item]:
    """The members of a `.tar` as they pass by; links, devices and what is hidden are no members."""
    found = False
    with tarfile.open(fileobj=part.stream, mode="r|", errorlevel=2, tarinfo=_Header) as archive:
        for info in archive:
            archive.members = []  # they would pile up  # pyrefly: ignore[missing-attribute]
            if not info.isreg() or hidden(info.name):
                continue
            found = True
            member = archive.extractfile(info)
            if member is not None:
                with member:
                    yield from _member(part, info.name, info.size, member, items_of)
    if not found:
        yield part.rejected("empty file", "the archive holds no files")


class _Header(tarfile.TarInfo):
    """A member's header; tarfile takes one that is broken for the end of the archive."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:  # pyrefly: ignore[missing-attribute]
            raise tarfile.ReadError(f"a header of the archive is broken ({error})") from None


def _member(part: Part, name: str, size: int, stream: IO[bytes], items_of: ItemsOf) -> Iterator[Item]:
    source = _source(part, name)
    kind, compression = format_of(name)
    if part.depth >= NESTED:
        yield Rejected("nested too deep", source, detail=f"an archive in {NESTED} others", bytes=size)
        return
    with decompressed(stream, compression, source) as opened:
        yield from items_of(Part(opened, source, kind, size, part.text_column, part.limit, part.depth + 1))


def _source(part: Part, name: str) -> str:
    return f"{part.source}/{shown(name).strip('/')}"


def hidden(name: str) -> bool:
    return any((step.startswith(".") and step not in (".", "..")) or step == "__MACOSX" for step in name.split("/"))
