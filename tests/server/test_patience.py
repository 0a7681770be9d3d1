"""Senders and readers that dawdle lose their connection; others are answered meanwhile."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest
import uvicorn

from fledge.server.patience import patient

SECONDS = 0.4
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"


async def flood(scope, receive, send):
    """Reads the request and answers with more than any buffer holds."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(400):
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def serving(most: int) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(flood, http=patient(SECONDS, most), lifespan="off", log_config=None, ws="none"))
    task = asyncio.create_task(server._serve([listener]))
    yield server, listener.getsockname()[1]
    server.should_exit = server.force_exit = True
    await task


async def seconds_until_closed(reader: asyncio.StreamReader) -> float:
    began = time.monotonic()
    try:
        while await reader.read(1 << 16):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


@pytest.mark.parametrize("sent", [b"", HEAD[:20], HEAD + b"12345"], ids=["nothing", "half a head", "half a body"])
def test_a_request_that_does_not_arrive_is_given_up(sent):
    async def tried():
        async for _, port in serving(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            assert SECONDS * 0.9 < await seconds_until_closed(reader) < SECONDS + 2
            writer.close()

    asyncio.run(tried())


def test_a_reader_that_reads_nothing_is_given_up_and_another_is_served():
    async def tried():
        async for server, port in serving(10):
            slow = socket.create_connection(("127.0.0.1", port))
            slow.sendall(HEAD + b"1234567890")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD + b"1234567890")
            received = 0
            while received < 400 * 65536:
                received += len(await reader.read(1 << 20))
            writer.close()
            deadline = time.monotonic() + SECONDS + 3
            while server.server_state.connections:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            slow.close()

    asyncio.run(tried())


def test_more_connections_than_may_be_open_are_closed():
    async def tried():
        async for server, port in serving(3):
            opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            await asyncio.sleep(0.1)
            assert len(server.server_state.connections) == 3
            for _, writer in opened:
                writer.close()

    asyncio.run(tried())
