"""The bytes of a file, plain or compressed, as streams of bounded memory, and what they say as text."""

import bz2
import codecs
import hashlib
import importlib
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`; both counts are bytes."""

SNIFFED = 8192
BUFFER = 1 << 17
COMPRESSED = ("gz", "zst", "xz", "bz2")
SHORT = {"tgz": ("tar", "gz"), "tbz2": ("tar", "bz2"), "tbz": ("tar", "bz2"), "txz": ("tar", "xz"), "tzst": ("tar", "zst")}
EXTRAS = {
    "data": {"pyarrow": "pyarrow", "zstandard": "zstandard", "rensa": "rensa"},
    "documents": {"pypdf": "pypdf", "docx": "python-docx", "resiliparse": "resiliparse", "fastwarc": "fastwarc"},
    "remote": {"fsspec": "fsspec", "aiohttp": "aiohttp", "s3fs": "s3fs"},
    "hub": {"datasets": "datasets"},
}  # of each extra its modules, and what they are called where one installs them
NEEDED = {
    "pyarrow": ("parquet", "arrow", "feather"),
    "zstandard": ("zst",),
    "pypdf": ("pdf",),
    "docx": ("docx",),
    "resiliparse": ("html", "htm", "xhtml", "epub", "eml", "mbox"),
    "fastwarc": ("warc", "wet"),
}  # of each module the kinds of files and compressions that need it


def format_of(path: str) -> tuple[str, str]:
    """The kind of a file and its compression, by its name: `notes/a.CSV.gz` is `("csv", "gz")`, `a.txt` is `("txt", "")`."""
    name = os.path.basename(path.rstrip("/"))
    suffixes = [] if name.endswith(".") else name.lstrip(".").lower().split(".")[1:]
    if suffixes and suffixes[-1] in SHORT:
        return SHORT[suffixes[-1]]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else ""
    return suffixes[-1] if suffixes else "", compression


def shown(path: str) -> str:
    """A path as text that can be written anywhere: what is no UTF-8 in it becomes `\\xe9`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def require(path: str, form: tuple[str, str] | None = None) -> None:
    """Raises `MissingLibrary` with the command to type when a file of this form (`format_of`) needs a library that is missing."""
    for module, kinds in NEEDED.items():
        if not set(kinds).isdisjoint(form or format_of(path)):
            extra(module, path)


class MissingLibrary(ValueError):
    """What is given can be read, but not by this installation: every other file of its kind would fail alike."""


def extra(module: str, path: str) -> Any:
    """A module that comes with an extra; raises `MissingLibrary` saying which where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        top = module.split(".")[0]
        bundle = next(name for name, modules in EXTRAS.items() if top in modules)
        raise MissingLibrary(f"{path} needs {EXTRAS[bundle][top]}, which is not installed: pip install 'fledge[{bundle}]'") from None


@contextmanager
def opened(path: str) -> Iterator[io.BufferedReader]:
    """The decompressed bytes of the file `path` as a stream.

    Raises `ValueError` when a compressed file is cut short or damaged, `OSError` when it cannot be read.
    """
    with open(path, "rb", BUFFER) as raw, decompressed(raw, format_of(path)[1], path) as stream:
        yield stream


def decompressed(raw: IO[bytes], compression: str, source: str) -> io.BufferedReader:
    """What `raw` holds, read a little at a time; reading raises `ValueError` where it is cut short or damaged."""
    if not compression and type(raw) is io.BufferedReader:  # tarfile's kind only seems to be one
        return raw
    return io.BufferedReader(_Frames(raw, compression, source) if compression else _Whole(raw), BUFFER)


class _Whole(io.RawIOBase):
    """Any stream, whose reads are short only where it ends or breaks."""

    def __init__(self, raw: IO[bytes]):
        self.raw, self.place = raw, 0
        self.failed: Exception | None = None

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer) -> int:
        filled = 0
        while filled < len(buffer) and self.failed is None:
            try:
                data = self._next(len(buffer) - filled)
            except Exception as error:  # what comes before it is given first
                self.failed = error
                break
            if not data:
                break
            buffer[filled : filled + len(data)] = data
            filled += len(data)
        if self.failed is not None and not filled:
            raise self.failed
        self.place += filled
        return filled

    def _next(self, size: int) -> bytes | memoryview:
        """At most `size` bytes; none at the end."""
        return self.raw.read(size)


def upto(raw: IO[bytes], left: int) -> io.BufferedReader:
    """The next `left` bytes of a stream."""
    return io.BufferedReader(_UpTo(raw, left), BUFFER)


class _UpTo(_Whole):
    def __init__(self, raw: IO[bytes], left: int):
        super().__init__(raw)
        self.left = left

    def _next(self, size: int) -> bytes:
        data = self.raw.read(min(size, self.left))
        self.left -= len(data)
        return data


STEP = 1 << 20  # decompressed bytes that are asked for at once
XZ_MEMORY = 1 << 27


class _Frames(_Whole):
    """All frames of a compressed file, one after another. However much a few bytes may become, little of it is held at once.

    The libraries' own readers take some files that are cut short for whole ones.
    """

    def __init__(self, raw: IO[bytes], compression: str, source: str):
        super().__init__(raw)
        self.what, self.compression = f"{source} is not a whole .{compression} file", compression
        self.frame: Any = None
        self.waiting, self.ready, self.chunk = b"", memoryview(b""), BUFFER
        self.wrong: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, OSError, EOFError)
        match compression:
            case "gz":
                self.new = lambda: zlib.decompressobj(31)
            case "xz":
                self.new = lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY)
            case "bz2":
                self.new = bz2.BZ2Decompressor
            case _:
                library = extra("zstandard", source)
                self.new = library.ZstdDecompressor().decompressobj
                self.wrong = (library.ZstdError,)
                self.chunk = 1024  # it gives all that it makes of its input: at most 32 MB of these

    def _next(self, size: int) -> memoryview:
        while not self.ready:
            hungry = self.frame is None or getattr(self.frame, "needs_input", True)
            data = (self.waiting or self.raw.read(self.chunk)) if hungry else b""
            if self.frame is None:
                if self.compression in ("gz", "xz"):
                    padding, data = data, data.lstrip(b"\0")
                    if padding and not data:
                        self.waiting = b""
                        continue
                if not data:
                    return self.ready
                self.frame = self.new()
            try:
                self.ready = memoryview(self.frame.decompress(data) if self.compression == "zst" else self.frame.decompress(data, STEP))
            except self.wrong as error:
                raise ValueError(f"{self.what} ({error})") from None
            if self.frame.eof:
                self.waiting, self.frame = self.frame.unused_data, None
            elif hungry and not data and not self.ready:
                raise ValueError(f"{self.what} (it ends too early)")
            else:
                self.waiting = getattr(self.frame, "unconsumed_tail", b"")
        data, self.ready = self.ready[:size], self.ready[size:]
        return data


MARKS = (  # the longer ones first: that of UTF-16 begins one of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
codecs.register_error("fledge.invalid", lambda error: ("\udcff", error.end))  # pyrefly: ignore[missing-attribute]


def as_utf8(stream: io.BufferedReader) -> io.BufferedReader:
    """The bytes of a text in UTF-8 without a byte order mark; UTF-16 and UTF-32 are told by theirs, as Windows' editors write them.

    What is invalid in them becomes an invalid byte, so that `decoded` counts it.
    """
    head = stream.peek(4)
    if head.startswith(codecs.BOM_UTF8):
        stream.read(3)
    for mark, encoding in MARKS:
        if head.startswith(mark):
            stream.read(len(mark))
            return io.BufferedReader(_Transcoded(stream, encoding), BUFFER)
    return stream


class _Transcoded(_Whole):
    def __init__(self, raw: IO[bytes], encoding: str):
        super().__init__(raw)
        self.decoder = codecs.getincrementaldecoder(encoding)("fledge.invalid")
        self.ready, self.ended = memoryview(b""), False

    def _next(self, size: int) -> memoryview:
        while not self.ready and not self.ended:
            data = self.raw.read(BUFFER)
            self.ended = not data
            self.ready = memoryview(self.decoder.decode(data, self.ended).encode("utf-8", "surrogateescape"))
        data, self.ready = self.ready[:size], self.ready[size:]
        return data


def decoded(raw: bytes, encoding: str = "utf-8") -> tuple[str, int]:
    """`raw` as text and the number of replacement characters that stand for what is invalid in it; a byte order mark is dropped.

    >>> decoded(b"caf\\xe9")
    ('caf\\ufffd', 1)
    """
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode(encoding), 0
    except UnicodeDecodeError:
        text = raw.decode(encoding, "replace")
        return text, text.count("\ufffd") - raw.count("\ufffd".encode())


def known_encoding(charset: str | None) -> str:
    """A declared charset if Python can decode it, else UTF-8, which ASCII is read as too."""
    try:
        name = codecs.lookup(charset or "utf-8").name
        "".encode(name)  # some codecs are no charsets
    except LookupError:
        return "utf-8"
    return "utf-8" if name == "ascii" else name


def with_line_ends(text: str) -> str:
    """`text` with `\\n` line ends."""
    return text.replace("\r\n", "\n") if "\r" in text else text  # replacing takes ten times as long as looking


def mended(text: str) -> tuple[str, int]:
    """`text` with `\\n` line ends, and the number of half surrogate pairs (JSON may hold them, UTF-8 cannot) replaced."""
    text = with_line_ends(text)
    try:
        text.encode()
        return text, 0
    except UnicodeEncodeError:
        whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return whole, whole.count("\ufffd") - text.count("\ufffd")


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb", 0) as stream:
        found = hashlib.sha256()
        while data := stream.read(STEP):
            found.update(data)
        return found.hexdigest()


def sync(path: Path) -> None:
    """fsync of a file or folder; Windows has none for folders."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
