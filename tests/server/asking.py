"""A small client that costs next to nothing, so that what is measured is the server."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from tests.server.starting import KEY


@dataclass
class Reply:
    """What came back: the status, the body, how many seconds it took in all, and when each event of a stream came, from the start on."""

    status: int
    body: bytes
    seconds: float
    events: list[float] = field(default_factory=list)

    def json(self) -> Any:
        return json.loads(self.body)

    def streamed(self) -> list[dict[str, Any]]:
        """The events of a stream. Raises `ValueError` where its end is missing."""
        *events, last = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        if last != b"[DONE]":
            raise ValueError(f"a stream ends with {last[:200]!r}")
        return [json.loads(event) for event in events]


@dataclass
class Client:
    """Asks a server at a URL, each question on a connection of its own."""

    url: str
    key: str = KEY

    async def ask(self, route: str, body: dict[str, Any], leave_after: float | None = None) -> Reply | None:
        """The reply; none where the client leaves after so many seconds, before it is whole."""
        host, port = self.url.removeprefix("http://").rstrip("/").split(":")
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            sent = json.dumps(body).encode()
            head = [f"POST {route} HTTP/1.1", f"Host: {host}:{port}", f"Authorization: Bearer {self.key}", "Connection: close"]
            head += ["Content-Type: application/json", f"Content-Length: {len(sent)}", "", ""]
            writer.write("\r\n".join(head).encode() + sent)
            async with asyncio.timeout(leave_after):
                return await self._reply(reader, began)
        except TimeoutError:
            return None
        finally:
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader, began: float) -> Reply:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        status, body, events = int(lines[0].split()[1]), b"", list[float]()
        if "transfer-encoding: chunked" not in lines:
            body = await reader.read()
        else:
            while size := int((await reader.readline()).split(b";")[0], 16):
                body += await reader.readexactly(size)
                await reader.readline()
                events.append(time.perf_counter() - began)
        return Reply(status, body, time.perf_counter() - began, events)
