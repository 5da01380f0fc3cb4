"""The server as a process: the address it listens on, and its end, which lets running requests finish."""

import asyncio
import errno
import math
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from arriero.common.errors import ArrieroError
from arriero.serve.app import create_app
from arriero.serve.connection import Connection
from arriero.serve.service import Service
from arriero.serve.settings import ServeSettings

_GRACE_S = 2
"""Seconds beyond the patience in which answers that were cut short are told so."""


def listen(settings: ServeSettings) -> socket.socket:
    """Take the address, so that one that is not to be had is known before a model is loaded.

    Raises:
        ArrieroError: it is in use, is not this machine's, or is not allowed.
    """
    host, port = settings.host, settings.port
    wanted = socket.AF_INET if host == "localhost" else socket.AF_UNSPEC
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, wanted, socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ArrieroError(f"host '{host}' is no address of this machine: expected e.g. 127.0.0.1") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        reasons = {
            errno.EADDRINUSE: f"port {port} is in use: stop the other program, or choose another with --port",
            errno.EADDRNOTAVAIL: f"host '{host}' is no address of this machine: expected e.g. 127.0.0.1",
            errno.EACCES: f"port {port} needs rights that this user lacks: choose one from 1024 on with --port",
        }
        raise ArrieroError(reasons.get(error.errno or 0, f"{host}:{port}: {error.strerror}")) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a browser finds the server."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not listened on
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Serves until it is told to stop; then takes nothing new, and gives what runs its time."""

    def __init__(self, service: Service, ready: Callable[[], None]) -> None:
        """`ready` is called once requests are answered."""
        patience_s = service.settings.patience_s
        super().__init__(
            uvicorn.Config(
                create_app(service),
                http=Connection,
                ws="none",
                log_level="error",  # its warnings are of what anyone may send, as often as they like
                access_log=False,
                server_header=False,
                proxy_headers=False,  # a client could call itself anything
                lifespan="on",
                timeout_keep_alive=75,  # a client that asks again now and then must not meet a connection just closed
                timeout_graceful_shutdown=math.ceil(patience_s) + _GRACE_S,
            )
        )
        self._service, self._ready = service, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: the engines end what does not finish in time, and that is told to its clients."""
        patience_s = self._service.settings.patience_s
        ending = asyncio.create_task(asyncio.to_thread(self._service.end_requests, patience_s))
        await super().shutdown(sockets)
        if self.force_exit:
            self._service.end_requests()
        await ending


def run(service: Service, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; the service is closed then."""
    before = signal.signal(signal.SIGTERM, _interrupt)  # uvicorn raises what it caught once more when it has ended
    try:
        Server(service, ready).run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        service.close()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
