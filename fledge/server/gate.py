"""What stands before every route: who may ask, how much, how long it may take to arrive, and that a client which leaves is noticed."""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fledge.server.limits import Access, Limits
from fledge.server.metrics import Metrics
from fledge.server.refusal import Refusal
from fledge.server.worker import where

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
SWALLOWED = 8  # times the bytes of a body that are read of one too large, so that its sender hears why it is refused
LINGERS = 2.0  # seconds for the body of a request that is refused by its headers
log = logging.getLogger("fledge.server")


class Gate:
    """Wraps an application: its requests are checked, have arrived whole, and are cancelled when their client leaves.

    Jobs that the application puts into `scope["state"]["jobs"]` are left when the request ends, however it does. What is logged of a
    request is its route, status and seconds.
    """

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, metrics: Metrics):
        self.app, self.access, self.limits, self.metrics = app, access, limits, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        status, began = 0, time.perf_counter()

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        jobs = scope.setdefault("state", {})["jobs"] = []
        try:
            headers = Headers(scope=scope)
            await self._let_in(scope["path"], headers, receive)
            body = await self._body(headers, receive, self.limits.body, self.limits.patience)
            await self._answered(scope, body, receive, tell)
        except Refusal as refusal:
            await respond(tell, refusal)
        except Exception as fault:  # what it says may hold a text
            log.error("%s %s: %s", scope["method"], route_of(scope), where(fault))
            if not status:
                await respond(tell, Refusal(500, "a fault of the server: its log tells where"))
        finally:
            for job in jobs:
                job.leave()
            seconds, route = time.perf_counter() - began, route_of(scope)
            self.metrics.count("fledge_requests_total", route=route, status=status or "left")
            self.metrics.time("fledge_request_seconds", seconds, route=route)
            log.info("%s %s %s %.3f s", scope["method"], route, status or "left", seconds)

    async def _let_in(self, path: str, headers: Mapping[str, str], receive: Receive) -> None:
        """Raises `Refusal` for who may not ask, but not before the body has come: at a closed connection it would wipe out the answer."""
        try:
            self.access.check(headers, is_free(path))
        except Refusal:
            with suppress(Refusal):
                await self._body(headers, receive, 0, LINGERS)
            raise

    async def _body(self, headers: Mapping[str, str], receive: Receive, most: int, seconds: float) -> bytes:
        """The whole body. Raises `Refusal` for one of more than `most` bytes or too slow; of a client that leaves there is nothing."""
        large = Refusal(413, f"the request has more than {self.limits.body:,} bytes, which this server takes: send less", "too_large")
        stated = headers.get("content-length", "0")
        if stated.isdecimal() and int(stated) > SWALLOWED * self.limits.body:
            raise large
        parts, length = [], 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    length += len(message["body"])
                    if length > SWALLOWED * self.limits.body:
                        raise large
                    if length <= most:
                        parts.append(message["body"])
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise Refusal(408, f"the request has not arrived within {seconds:g} s: send it faster", "too_slow") from None
        if length > most:
            raise large
        return b"".join(parts)

    async def _answered(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application until it has answered or its client has left."""
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await asyncio.Future()

        answering = asyncio.ensure_future(self.app(scope, replay, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (leaving, answering):
                if not task.done():
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
        if not answering.cancelled():
            answering.result()


async def _left(receive: Receive) -> None:
    """Returns when the client has left, or has its whole answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def respond(send: Send, refusal: Refusal) -> None:
    """Send a refusal; the connection ends where the rest of the request need not be read."""
    body = json.dumps(refusal.to_json()).encode()
    known = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refusal.headers}
    known |= {"Connection": "close"} if refusal.status in (401, 403, 408, 413) else {}
    headers = [(name.lower().encode(), value.encode()) for name, value in known.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def is_free(path: str) -> bool:
    """Whether no key is needed: for the page's files, which hold no secrets and ask for the key themselves, and to tell that it is well."""
    return path in ("/", "/health", "/favicon.ico") or path.startswith("/page/")


def route_of(scope: Mapping[str, Any]) -> str:
    """The route as the application knows it, of which there are few, and not what somebody wrote there."""
    return getattr(scope.get("route"), "path", "other")
