"""Ways to make things fail: processes that are killed, disks that fill, files that are damaged."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# A clean process that has imported what is slow to import, and forks the others: they start in no time, and free of anyone's threads.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.train.trials", "torch._dynamo"])  # which torch.optim imports with its first optimiser
PATIENCE = 120.0  # seconds for anything that a child says


class Child:
    """A process of its own that does `work(tell, *arguments)`; what it tells, or dies of, is heard here. Use it in a `with`."""

    def __init__(self, work: Callable[..., None], *arguments: Any):
        self.hearing, telling = _forks.Pipe(duplex=False)
        self.process = _forks.Process(target=_live, args=(telling, work, *arguments), daemon=True)
        self.process.start()
        telling.close()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.join()
        self.hearing.close()

    def hear(self) -> Any:
        """The next thing that it tells; None when it has ended."""
        if not self.hearing.poll(PATIENCE):
            raise TimeoutError(f"nothing was heard of a process for {PATIENCE:.0f} s")
        try:
            return self.hearing.recv()
        except (EOFError, ConnectionResetError):
            return None

    def end(self, number: signal.Signals | None = None, after: float = 0.0) -> tuple[int | None, list[Any]]:
        """Send it a signal `after` so many seconds, or let it work; its exit code (negative for a signal), and what else it tells."""
        if number is not None and self.process.pid is not None:
            time.sleep(after)
            with suppress(ProcessLookupError):  # it was faster
                os.kill(self.process.pid, number)
        rest = list(iter(self.hear, None))
        self.process.join(PATIENCE)
        return self.process.exitcode, rest


def _live(telling: Any, work: Callable[..., None], *arguments: Any) -> None:
    try:
        work(telling.send, *arguments)
    except Exception as ended:
        telling.send((type(ended).__name__, str(ended)))
        os._exit(getattr(ended, "exit_code", 1))


def flip(path: Path, dice: random.Random) -> None:
    """One bit becomes the other."""
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, dice: random.Random) -> None:
    """The file ends early."""
    os.truncate(path, dice.randrange(path.stat().st_size))


def swap(one: Path, other: Path) -> None:
    """Two files or folders exchange their names."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def limit_files(size: int) -> None:
    """From now on no file of this process may grow beyond `size` bytes, as `ulimit -f` does it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def may_mount() -> bool:
    """Whether this process may make file systems of its own."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount") is not None


@contextmanager
def small_disk(place: Path) -> Iterator[Callable[[int | None], None]]:
    """A file system in memory at `place`; call what is yielded to leave so many bytes free in it, or with None as many as one likes."""
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "none", str(place)], check=True)

    def leave(free: int | None) -> None:
        size = "1g" if free is None else shutil.disk_usage(place).used + free
        subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)

    try:
        yield leave
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Trial:
    """What every trial needs: a `room` that is made anew each time, and the dice of a kind and a seed; `noted` is a count to be kept."""

    KINDS: tuple[str, ...] = ()

    def __init__(self, root: Path):
        self.root, self.room, self.noted = root, root / "room", 0

    def __call__(self, kind: str, seed: int) -> str | None:
        """What was wrong about one trial, or None."""
        shutil.rmtree(self.room, ignore_errors=True)
        self.noted = 0
        complaint = self.complaint(kind, random.Random(f"{kind} {seed}"), seed)
        return None if complaint is None else f"{kind} {seed}: {complaint}"

    def complaint(self, kind: str, dice: random.Random, seed: int) -> str | None:
        raise NotImplementedError
