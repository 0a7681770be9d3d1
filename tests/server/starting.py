"""A server in a process of its own, for tests and benchmarks."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

PATIENCE = 300.0  # seconds until the models are open
KEY = "correct horse".replace(" ", "-")


@dataclass
class Running:
    """A server under way: where it is, a client for it, its process, and what it has said so far."""

    url: str
    web: httpx2.Client  # one for all, for each reads the certificates of the whole world
    process: subprocess.Popen
    log: Path

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def health(self) -> str | None:
        """What it tells of itself; nothing while nobody listens."""
        try:
            return self.web.get("/health", timeout=5).json()["status"]
        except httpx2.HTTPError:
            return None

    def answers(self) -> dict[str, int]:
        """How many answers of each model are under way, by its own account."""
        told = self.web.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
        rows = [line for line in told.splitlines() if line.startswith("fledge_answers{")]
        return {row.split('"')[1]: int(row.split()[-1]) for row in rows}

    def engine(self) -> int:
        """The process id of its engine."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        return found[-1]

    def ended(self, number: int = signal.SIGTERM, within: float = 30) -> int:
        """The exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(within)


@contextmanager
def running(*words: object, key: str | None = KEY, ready: bool = True) -> Iterator[Running]:
    """`fledge serve` with these words, on a port that was free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    known = {name: value for name, value in os.environ.items() if name != "FLEDGE_KEY"} | ({} if key is None else {"FLEDGE_KEY": key})
    threads = [] if "--threads" in words else ["--threads", "1"]
    command = [sys.executable, "-m", "fledge", "serve", *map(str, words), "--port", str(port), *threads]
    with tempfile.NamedTemporaryFile("wb", suffix=".log") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=known)
        url = f"http://127.0.0.1:{port}"
        web = httpx2.Client(base_url=url, timeout=60, verify=False, trust_env=False)
        server = Running(url, web, process, Path(log.name))
        try:
            deadline = time.monotonic() + PATIENCE
            while ready and server.health() != "ready":
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start: {server.said()}")
                time.sleep(0.1)
            yield server
        finally:
            process.kill()
            process.wait()
            web.close()
