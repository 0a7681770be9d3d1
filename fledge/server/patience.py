"""Connections that do not wait for ever: for a request to arrive, or for its reader."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def is_idle(connection: Any) -> bool:
    """Whether no request is under way on it."""
    return connection.cycle is None or connection.cycle.response_complete


def patient(seconds: float, most: int) -> type[H11Protocol]:
    """uvicorn's protocol, which ends a connection whose request has not arrived, or whose reader makes no room, within `seconds`.

    Beyond `most` connections at a time an idle one is closed for each new one, or where none is idle the new one itself.
    """

    class Patient(H11Protocol):
        arriving: asyncio.TimerHandle | None = None
        leaving: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.arriving = self.loop.call_later(seconds, transport.abort)
            if len(self.connections) > most:
                idle = (other for other in self.connections if other is not self and is_idle(other))
                next(idle, self).transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._forget("arriving")
            elif self.arriving is None:
                self.arriving = self.loop.call_later(seconds, self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.leaving = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._forget("leaving")

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self.leaving = self.leaving or self.loop.call_later(seconds, self.transport.abort)  # what is still to be read

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget("arriving")
            self._forget("leaving")
            super().connection_lost(exc)

        def _forget(self, name: str) -> None:
            timer: asyncio.TimerHandle | None = getattr(self, name)
            if timer is not None:
                timer.cancel()
                setattr(self, name, None)

    return Patient
