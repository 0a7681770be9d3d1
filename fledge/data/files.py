"""The bytes of a file, plain, `.gz` or `.zst`, and what they say as UTF-8."""

import codecs
import gzip
import importlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`; both counts are bytes."""

SNIFFED = 8192


def format_of(path: str) -> tuple[str, str]:
    """The kind of a file and its compression, by its name: `notes/a.CSV.gz` is `("csv", "gz")`, `a.txt` is `("txt", "")`."""
    suffixes = [suffix[1:].lower() for suffix in PurePath(path).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in ("gz", "zst") else ""
    return suffixes[-1] if suffixes else "", compression


def require(path: str) -> None:
    """Raises `ValueError` with the command to type when reading `path` needs a library that is not installed."""
    kind, compression = format_of(path)
    for needed, library in ((kind == "parquet", "pyarrow"), (compression == "zst", "zstandard")):
        if needed:
            extra(library, path)


def extra(library: str, path: str):
    try:
        return importlib.import_module(library)
    except ImportError:
        raise ValueError(f"{path} needs {library}, which is not installed: pip install 'fledge[data]'") from None


@contextmanager
def opened(path: str) -> Iterator[io.BufferedIOBase]:
    """The decompressed bytes of `path` as a stream.

    Raises `ValueError` when a compressed file is cut short or damaged, `OSError` when it cannot be read.
    """
    _, compression = format_of(path)
    try:
        with open(path, "rb") as raw:
            match compression:
                case "gz":
                    with gzip.open(raw) as stream:
                        yield stream
                case "zst":
                    with io.BufferedReader(_Zstandard(raw, path)) as stream:
                        yield stream
                case _:
                    yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole .gz file ({error})") from None


class _Zstandard(io.RawIOBase):
    """All frames of a `.zst` file; zstandard's own reader takes a file that is cut short for a whole one."""

    def __init__(self, raw: io.BufferedIOBase, path: str):
        self.raw, self.path, self.library = raw, path, extra("zstandard", path)
        self.frame, self.waiting, self.ready = None, b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.ready:
            data = self.waiting or self.raw.read(1 << 17)
            if not data and self.frame is None:
                return 0
            if not data:
                raise ValueError(f"{self.path} is not a whole .zst file (it ends inside a frame)")
            if self.frame is None:
                self.frame = self.library.ZstdDecompressor().decompressobj()
            try:
                self.ready = self.frame.decompress(data)
            except self.library.ZstdError as error:
                raise ValueError(f"{self.path} is not a whole .zst file ({error})") from None
            self.waiting = self.frame.unused_data
            if self.frame.eof:
                self.frame = None
        size = min(len(buffer), len(self.ready))
        buffer[:size], self.ready = self.ready[:size], self.ready[size:]
        return size


def decoded(raw: bytes) -> tuple[str, int]:
    """`raw` as text and the number of replacement characters that stand for its invalid UTF-8; a byte order mark is dropped.

    >>> decoded(b"caf\\xe9")
    ('caf\\ufffd', 1)
    """
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode("utf-8"), 0
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
        return text, text.count("\ufffd") - raw.count("\ufffd".encode())


def mended(text: str) -> tuple[str, int]:
    """`text` with `\\n` line ends, and the number of half surrogate pairs (JSON may hold them, UTF-8 cannot) replaced."""
    text = text.replace("\r\n", "\n")
    try:
        text.encode()
        return text, 0
    except UnicodeEncodeError:
        whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return whole, whole.count("\ufffd") - text.count("\ufffd")


def sync(path: Path) -> None:
    """fsync of a file or folder; Windows has none for folders."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
