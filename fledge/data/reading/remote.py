"""Files behind a URL (https, s3, and whatever else fsspec opens): found, and read as streams that go on after an interruption."""

import hashlib
import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from fledge.data.files import BUFFER, extra
from fledge.data.reading.archives import hidden

TRIES = 4  # of each read; waiting 0.5, 1 and 2 seconds between them
BLOCK = 4 << 20


def is_url(path: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*:(//|:)", path, re.IGNORECASE) is not None


def listed(url: str) -> list[tuple[str, int, str]]:
    """The files that a URL names, in the order of their names: the URL of each, its bytes (0: unknown) and its version (ETag, time).

    Folders are listed whole, and patterns (`*`, `**`) matched, where the protocol can list; of https a URL is one file.
    Raises `ValueError` where there is nothing, `ConnectionError` where nobody answers.
    """
    system, path = _system(url)
    try:
        if isinstance(system.protocol, str | tuple) and "http" in system.protocol:
            return [(url, *_facts(system.info(path)))]
        if "*" in path:
            found = system.glob(path, detail=True)
        elif system.isdir(path):
            found = system.find(path, detail=True)
        else:
            found = {path: system.info(path)}
    except FileNotFoundError as error:  # which fsspec makes of whatever a web server does
        cause = error.__cause__
        if isinstance(cause, OSError) or getattr(cause, "status", 404) not in (404, 410):
            raise ConnectionError(f"{url} cannot be looked up ({cause})") from error
        raise ValueError(f"{url} does not exist") from None
    except (ValueError, ImportError):
        raise
    except Exception as error:
        raise ConnectionError(f"{url} cannot be looked up ({error or type(error).__name__})") from error
    return [
        (system.unstrip_protocol(name), *_facts(info))
        for name, info in sorted(found.items())
        if info["type"] == "file" and not hidden(name.removeprefix(path))
    ]


def _system(url: str) -> tuple[Any, str]:
    library = extra("fsspec", url)
    scheme = url.split("::")[-1].split(":")[0].lower()
    if scheme in ("http", "https"):
        extra("aiohttp", url)
    elif scheme == "s3":
        extra("s3fs", url)
    try:
        return library.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url}: {error}") from None


def _facts(info: dict[str, Any]) -> tuple[int, str]:
    said = {name: str(info[name]) for name in ("ETag", "etag", "LastModified", "mtime", "created", "size") if info.get(name) is not None}
    return int(info.get("size") or 0), hashlib.sha256(repr(sorted(said.items())).encode()).hexdigest()


@contextmanager
def opened_url(url: str) -> Iterator[IO[bytes]]:
    """The bytes behind a URL; what interrupts them, and is not over after some tries, raises `ConnectionError` naming the URL."""
    file = _Resumed(url)
    with io.BufferedReader(file, BUFFER) as stream:
        yield stream
        if file.broken is not None:  # a library may have taken it for a fault of the file
            raise file.broken


class _Resumed(io.RawIOBase):
    """A remote file at a place that it returns to when the connection was lost."""

    def __init__(self, url: str):
        self.url, self.place, self.block = url, 0, BLOCK
        self.broken: ConnectionError | None = None
        self.system, self.path = _system(url)
        self.file: Any = None
        self.size: int | None = self._tried(self._size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.size is not None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self.size is None:
            raise io.UnsupportedOperation("seek")
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def _size(self) -> int | None:
        return self.file.size

    def readinto(self, buffer) -> int:
        data = self._tried(lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)

    def _read(self, size: int) -> bytes:
        if self.block and self.file.tell() != self.place:
            self.file.seek(self.place)
        elif self.file.tell() > self.place:  # such a server begins at the beginning only
            self._open()
        while self.file.tell() < self.place and self.file.read(min(BLOCK, self.place - self.file.tell())):
            pass
        data = self.file.read(size)
        if not data and self.size is not None and self.place < self.size:
            raise EOFError(f"it has {self.size:,} bytes")
        return data

    def _open(self) -> None:
        self._close()
        self.file = self.system.open(self.path, "rb", block_size=self.block)
        self.block = self.block if self.file.size is not None else 0

    def _close(self) -> None:
        file, self.file = self.file, None
        if file is not None:
            file.close()

    def _tried(self, act: Callable[[], Any]) -> Any:
        for trial in range(TRIES):
            try:
                if self.file is None:
                    self._open()
                return act()
            except Exception as error:
                self._close()
                if "support range requests" in str(error):
                    self.block = 0
                if isinstance(error, FileNotFoundError | PermissionError) or trial + 1 == TRIES:
                    said = f"{self.url}: the transfer broke off after {self.place:,} bytes ({error or type(error).__name__})"
                    self.broken = broken = ConnectionError(said)
                    raise broken from error
                time.sleep(0.5 * 2**trial)
        raise AssertionError

    def close(self) -> None:
        self._close()
        super().close()
