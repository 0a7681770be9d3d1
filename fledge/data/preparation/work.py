"""The working folder, in which each stage leaves what it finished, so that nothing is done twice."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fledge.data.files import sync
from fledge.data.pieces import (
    UNFINISHED,
)


class Work:
    """The working folder of a corpus: what stages have made, by kind and key, and what files held."""

    def __init__(self, out: Path):
        out = Path(os.path.abspath(out))
        self.folder = out.parent / f".{out.name}.work"
        self.unfinished = out.parent / f".{out.name}{UNFINISHED}"
        self.before = out.parent / f".{out.name}.before"
        self.out = out
        self.wanted: set[tuple[str, str]] = set()

    @contextmanager
    def used(self, keep: bool) -> Iterator[None]:
        """It is there, and this process alone works in it; afterwards it is removed unless it is to be kept or holds text that was read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder):
            if self.before.exists():  # stopped between two renames
                if self.out.exists():
                    shutil.rmtree(self.before)
                else:
                    os.replace(self.before, self.out)
            shutil.rmtree(self.unfinished, ignore_errors=True)
            for leftover in self.folder.rglob(f"*{UNFINISHED}"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            try:
                yield
            except BaseException:
                if not any(self.folder.glob("pieces/*/*.documents")):  # no text was read
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise
            if not keep:
                shutil.rmtree(self.folder)

    def place(self, kind: str, key: str) -> Path:
        """Where something is kept, which this run has a use for."""
        self.wanted.add((kind, key))
        return self.folder / kind / key

    @contextmanager
    def corpus(self) -> Iterator[Path]:
        """The folder in which a corpus is put together."""
        self.unfinished.mkdir()
        try:
            yield self.unfinished
        except BaseException:
            shutil.rmtree(self.unfinished, ignore_errors=True)
            raise

    def put(self, out: Path) -> None:
        """What was put together takes the place of `out`; whoever has the files of an older one open keeps them."""
        out = Path(os.path.abspath(out))
        if out.exists():
            os.replace(out, self.before)
        os.replace(self.unfinished, out)
        sync(out.parent)
        shutil.rmtree(self.before, ignore_errors=True)

    def forget(self) -> None:
        """Remove what this run had no use for: older versions of sources that changed, and what was made of them."""
        for path in self.folder.glob("*/*"):
            if (path.parent.name, path.name) not in self.wanted:
                shutil.rmtree(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises `ValueError` while another process prepares the same corpus."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process prepares this corpus already (it works in {folder}): wait for it, or stop it") from None
        yield
