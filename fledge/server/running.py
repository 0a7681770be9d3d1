"""A server from its start to its end: the models are loaded, requests answered, and on a signal what is under way is finished."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from fledge.server.app import application
from fledge.server.limits import Access, Limits
from fledge.server.link import GONE, READY, Link
from fledge.server.patience import patient
from fledge.server.worker import Opening

log = logging.getLogger("fledge.server")
TICK = 0.05  # seconds between looks at what is under way


class Ended(Exception):
    """The server has ended in another way than it should; `exit_code` is the command's."""

    def __init__(self, words: str, exit_code: int):
        super().__init__(words)
        self.exit_code = exit_code


class Draining(uvicorn.Server):
    """uvicorn's server, which goes on answering what is under way after a first signal to end, and ends at once after a second."""

    def __init__(self, config: uvicorn.Config, link: Link):
        super().__init__(config)
        self.link, self.signals = link, list[int]()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signals.append(sig)
        self.link.drain()
        if len(self.signals) > 1:
            self.should_exit = self.force_exit = True
            self.link.end()


def run(opening: Opening, listener: socket.socket, access: Access, limits: Limits, ready: Callable[[Link], None]) -> int:
    """Serve the models that `opening` opens, in a process of its own, until a signal ends it; how many questions it was asked.

    `ready` is called when they are open. Raises `ValueError` for models that cannot be opened, `Ended` when the engine's process ends by
    itself or a second signal came.
    """
    link = Link(opening, limits)
    config = uvicorn.Config(
        application(link, access, limits), http=patient(limits.patience, limits.connections), loop="asyncio", ws="none", lifespan="off",
        access_log=False, log_config=None, log_level="error", server_header=False, timeout_graceful_shutdown=5,
        timeout_keep_alive=int(limits.patience),
    )  # fmt: skip
    server = Draining(config, link)
    try:
        asyncio.run(_serve(server, listener, ready))
    finally:
        link.end()
    if link.unusable is not None:
        raise ValueError(link.unusable)
    if len(server.signals) > 1:
        raise Ended("stopped at once by a second signal; answers under way were cut off.", 128 + server.signals[-1])
    if not server.signals:
        code = link.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with exit code {code}"
        raise Ended(f"the engine's process {how}, perhaps for want of memory: the server ends too. This starts it again:", 1)
    return link.asked


async def _serve(server: Draining, listener: socket.socket, ready: Callable[[Link], None]) -> None:
    link = server.link
    listening = asyncio.create_task(link.listen())
    watching = asyncio.create_task(_watch(server, ready))
    await server.serve(sockets=[listener])
    for task in (listening, watching):
        task.cancel()
    await asyncio.gather(listening, watching, return_exceptions=True)


async def _watch(server: Draining, ready: Callable[[Link], None]) -> None:
    """Say when the models are open; let the server end with the engine, and on a signal once nothing is under way any more."""
    link, told, drained = server.link, False, 0.0
    while not server.should_exit:
        await asyncio.sleep(TICK)
        if link.state == READY and not told:
            told = True
            ready(link)
        if server.signals:
            drained += TICK
            if drained <= TICK:
                log.warning("ending: %d requests under way are answered first; a second signal ends at once", link.under_way)
        if link.state == GONE or (server.signals and (not link.under_way or drained > link.limits.drain)):
            server.should_exit = True
