"""A client's connection, closed on those that neither ask nor read: each holds one of the process's open files."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

ASKING_SECONDS = 60.0
"""From a request's first byte, or the connection's begin, until all of its headers are there."""
UNREAD_SECONDS = 60.0
"""That a client may let an answer wait, once all buffers on the way to it are full."""


class Connection(H11Protocol):
    """uvicorn's, with two limits of time; it has those for a quiet connection and for a server that stops."""

    _asking: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """A client is there."""
        super().connection_made(transport)
        self._watch_request()

    def data_received(self, data: bytes) -> None:
        """A part of a request."""
        super().data_received(data)
        self._watch_request()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        _stop(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        _stop(self._asking)
        _stop(self._unread)
        super().connection_lost(exc)

    def _watch_request(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            _stop(self._asking)
            self._asking = None
        elif self._asking is None:
            self._asking = self.loop.call_later(ASKING_SECONDS, self.transport.abort)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
