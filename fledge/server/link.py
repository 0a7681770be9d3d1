"""The engine's process as the web server sees it: questions go out, what is told of them comes in, and nothing waits for either."""

import asyncio
import json
import math
import multiprocessing
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from fledge.server.limits import Limits
from fledge.server.refusal import Refusal
from fledge.server.worker import Opening, Told, work

LONGEST = 1 << 30  # bytes of a line
LOADING, READY, DRAINING, GONE = "loading", "ready", "draining", "gone"
State = Literal["loading", "ready", "draining", "gone"]


class Job:
    """One question under way: what is told of it, in turn, until its end."""

    def __init__(self, number: int, model: str, rows: int, link: "Link"):
        self.number, self.model, self.rows, self._link = number, model, rows, link
        self.told: asyncio.Queue[Told] = asyncio.Queue()
        self.began = time.monotonic()

    async def next(self) -> Told:
        """What is told next. Raises `Refusal` where it is that the question is not answered."""
        told = await self.told.get()
        if "status" in told:
            raise Refusal(told["status"], told["message"])
        return told

    async def __aiter__(self) -> AsyncIterator[Told]:
        while "end" not in (told := await self.next()):
            yield told

    def leave(self) -> None:
        """Nobody waits for it any more; after its end nothing happens."""
        self._link.leave(self)


class Link:
    """Starts the process that opens the models, and keeps account of what it is asked.

    `models` is what `/v1/models` tells of each, once they are `READY`. Of each model at most `slots + queue` answers are under way.
    """

    def __init__(self, opening: Opening, limits: Limits):
        self.limits, self.models, self.state = limits, dict[str, dict[str, Any]](), LOADING
        self.unusable: str | None = None  # why the models could not be opened
        self.rows: dict[str, int] = {}
        self._jobs: dict[int, Job] = {}
        self.asked, self._seconds = 0, 1.0  # of an answer, lately
        ours, theirs = socket.socketpair()
        self._socket = ours
        with theirs:
            context = multiprocessing.get_context("spawn")
            self.process = context.Process(target=work, args=(theirs, opening), name="fledge-engine", daemon=True)
            self.process.start()

    async def listen(self) -> None:
        """Pass on what is told until the process ends; then whoever waits hears that it has."""
        reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=LONGEST)
        try:
            while line := await reader.readline():
                self._hear(json.loads(line))
        except ConnectionError:
            pass
        finally:
            self.state = GONE
            for job in list(self._jobs.values()):
                self._hear({"job": job.number, "status": 500, "message": "the engine has ended before this answer did"})
            self._writer.close()

    def _hear(self, told: Told) -> None:
        match told:
            case {"event": "ready"}:
                self.models, self.rows = told["models"], dict.fromkeys(told["models"], 0)
                self.state = READY if self.state == LOADING else self.state
            case {"event": "unusable"}:
                self.unusable = told["message"]
            case {"job": number} if (job := self._jobs.get(number)) is not None:
                job.told.put_nowait(told)
                if "end" in told or "status" in told:
                    self._close(job)
                    self._seconds += (min(time.monotonic() - job.began, 60.0) - self._seconds) / 8

    def ask(self, model: str, rows: int, **question: Any) -> Job:
        """A question of so many answers to one of the `models`.

        Raises `Refusal` while there are too many others, for more answers than there may ever be, and before or after its time.
        """
        self.check()
        most = self.limits.slots + self.limits.queue
        if rows > most:
            raise Refusal(400, f"{rows:,} answers are asked for at once, but this server takes {most:,}: ask for fewer", param="n")
        if self.rows[model] + rows > most:
            ahead = self._seconds * self.rows[model] / self.limits.slots
            wait = min(60, max(1, math.ceil(ahead / 2)))
            message = f"{self.rows[model]:,} answers are under way or wait, more than this server can take: try again in {wait} s"
            raise Refusal(429, message, "queue_full", retry=wait)
        self.asked += 1
        told = json.dumps({"job": self.asked, "model": model, **question})
        job = self._jobs[self.asked] = Job(self.asked, model, rows, self)
        self.rows[model] += rows
        self._say(told)
        return job

    def check(self) -> None:
        """Raises `Refusal` unless questions are answered now."""
        if self.state == LOADING:
            raise Refusal(503, "the models are being loaded: try again in a few seconds", "loading", retry=5)
        if self.state != READY:
            raise Refusal(503, "this server is about to end and takes no new requests", "draining", retry=10)

    def leave(self, job: Job) -> None:
        if self._jobs.get(job.number) is job:
            self._close(job)
            self._say(json.dumps({"job": job.number, "do": "leave"}))

    def drain(self) -> None:
        """From now on only what is under way is answered."""
        if self.state != GONE:
            self.state = DRAINING

    @property
    def under_way(self) -> int:
        return len(self._jobs)

    def end(self) -> None:
        """End the process, whatever it does; one that has ended by itself is let end."""
        if self.state == GONE:
            self.process.join(timeout=5)
        self.process.kill()
        self.process.join()

    def _close(self, job: Job) -> None:
        del self._jobs[job.number]
        self.rows[job.model] -= job.rows

    def _say(self, line: str) -> None:
        """Into a buffer that holds no more than what may be under way."""
        if self.state != GONE:
            self._writer.write(line.encode() + b"\n")
