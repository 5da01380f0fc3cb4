"""Who may ask the server for anything, how much at once, and what browsers may do with its answers.

Loopback is no fence by itself: any site that a browser on this machine shows can send requests to 127.0.0.1, and with a
name that resolves there (DNS rebinding) it can read the answers too. So without a token a request must name a loopback
host, and none may come from another site. With a token, which no other site has, the token alone decides; compared in
constant time. Cross-origin reading (CORS) is allowed to nobody. Bodies, open requests and wrong tokens are bounded.

All of it is plain ASGI: answers stream through untouched, and a client that leaves is noticed by whoever answers it.
Nothing here logs a header, a query, a body or an error's message: tokens, prompts and documents stay out of logs.
"""

import asyncio
import hmac
import ipaddress
import json
import logging
import math
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arriero.serve.errors import error_body
from arriero.serve.settings import ServeSettings

OPEN_PATHS = ("/", "/health")
"""With the files of the pages (`/static/`), what is sent without a token: it tells nothing about anyone."""
_PAGES = "/static/"
_UPLOAD = re.compile(r"/api/collections/[^/]+/documents")
"""The one body that is streamed to disk, with a bound of its own (`uploads.py`)."""
_BODY_SECONDS = 60.0
"""For a whole body that is read into memory."""
_OPEN_BESIDE_WAITING = 64
"""Requests that may be open beside those that wait for the model: pages, lists, uploads."""
_WRONG_TOKENS = 30
"""That one client may send in a minute."""
_CLIENTS = 4096
"""Whose wrong tokens are remembered at once."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer that says nothing else."""
_LOG = logging.getLogger("arriero.serve")


def secure(app: FastAPI, settings: ServeSettings) -> None:
    """Put the fences around an app; call it once, after all other middleware was added."""
    app.add_middleware(BoundedBody, most_bytes=settings.max_body_bytes)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(Sealed)


def client_of(scope: Scope) -> str:
    """Whom a request is from: an address, of IPv6 the network of 64 bits, all of which one client may have."""
    host = str((scope.get("client") or ("localhost", 0))[0])
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _is_loopback(host: str) -> bool:
    """Whether a name or an address, without its port, means this machine and no other."""
    name = host.rstrip(".").lower().removeprefix("[").removesuffix("]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An answer that is given before any endpoint is asked."""

    status: int
    message: str
    code: str
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(self, send: Send) -> None:
        """Give it."""
        body = json.dumps(error_body(self.status, self.message, code=self.code)).encode()
        headers = MutableHeaders({"content-type": "application/json", "content-length": str(len(body))})
        headers.update(self.headers)
        await send({"type": "http.response.start", "status": self.status, "headers": headers.raw})
        await send({"type": "http.response.body", "body": body})


class Sealed:
    """Gives every answer the headers that keep browsers from making more of it, and a defect of ours an answer.

    A defect is logged by its class and its place in our code: its message may quote a prompt.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_sealed(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_sealed)
        except Exception as error:  # whatever an endpoint did not foresee
            log_defect(scope["method"], error)
            if begun:
                raise ConnectionError("the answer broke off") from None  # closes the connection, cut short
            await Refusal(status=500, message="a defect of the server: its log tells where", code="internal_error")(
                send_sealed
            )


def log_defect(what: str, error: BaseException) -> None:
    """Log where an error came from, without what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames[-12:]))
    _LOG.error("%s: %s at %s", what, type(error).__name__, places)


class Gate:
    """Lets in who may ask, and no more than can be served.

    Clients on this machine are not told apart: one of them may be a proxy that speaks for many.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._token = None if settings.token is None else settings.token.encode()
        self._most_open = settings.max_waiting + _OPEN_BESIDE_WAITING
        self._open = Counter[str]()
        """Requests in progress by the client's address."""
        self._wrong = Rates(_WRONG_TOKENS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "there are no web sockets here"})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = client_of(scope)
        refusal = self._judge(scope, client)
        if refusal is not None:
            await refusal(send)
            return
        self._open[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    def _judge(self, scope: Scope, client: str) -> Refusal | None:
        """Why a request is refused; None lets it in."""
        headers, path = Headers(scope=scope), scope["path"]
        is_page = scope["method"] in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith(_PAGES))
        if self._token is None:
            refusal = _check_host(headers) or _check_site(headers, is_page=is_page)
        else:
            refusal = None if is_page else self._check_token(headers, client)
        if refusal is not None or path == "/health":
            return refusal
        if self._open.total() >= self._most_open:
            message = f"{self._open.total()} requests are open already: try again in a moment"
            return Refusal(status=503, message=message, code="overloaded", headers={"retry-after": "1"})
        if self._open[client] >= self._most_open // 2 and not _is_loopback(client):
            message = f"{self._open[client]} requests from {client} are open already: try again when some have ended"
            return Refusal(status=429, message=message, code="rate_limit_exceeded", headers={"retry-after": "1"})
        return None

    def _check_token(self, headers: Headers, client: str) -> Refusal | None:
        assert self._token is not None
        counted = not _is_loopback(client)
        if counted and (wait := self._wrong.wait(client)):
            message = f"too many wrong tokens from {client}: try again in {wait} s"
            return Refusal(status=429, message=message, code="rate_limit_exceeded", headers={"retry-after": str(wait)})
        given = headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        # headers are decoded as Latin-1, whatever they held
        if scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode("latin-1"), self._token):
            return None
        if counted and given:
            self._wrong.count(client)
        told = "the token is wrong" if given else "a token is needed"
        message = f"{told}: expected the header 'Authorization: Bearer TOKEN' with this server's token"
        return Refusal(status=401, message=message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _check_host(headers: Headers) -> Refusal | None:
    """Against DNS rebinding: a foreign site's name may resolve to this machine, and the browser sends that name."""
    hosts = headers.getlist("host")
    if len(hosts) == 1 and (name := _hostname(hosts[0])) is not None and _is_loopback(name):
        return None
    return Refusal(
        status=403,
        message="expected the host localhost or 127.0.0.1: to be asked by another name, start the server with a token",
        code="forbidden_host",
    )


def _check_site(headers: Headers, *, is_page: bool) -> Refusal | None:
    """Against other sites' pages: a program that is no browser sends neither header, a link to a page does no harm."""
    origin, fetched_from = headers.get("origin"), headers.get("sec-fetch-site")
    is_foreign = fetched_from not in (None, "same-origin", "none")
    if origin is not None:
        is_foreign = is_foreign or origin == "null" or _netloc(origin) != _netloc(f"http://{headers['host']}")
    if not is_foreign or (is_page and origin is None):
        return None
    return Refusal(status=403, message="another site's page may not ask this server", code="forbidden_origin")


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"http://{host}").hostname
    except ValueError:
        return None


def _netloc(origin: str) -> tuple[str | None, int] | None:
    """Host and port; None for what has none, which equals no other."""
    try:
        parts = urlsplit(origin)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    return parts.hostname, port


class Rates:
    """How often something happened, by client: a bucket for each that drains so many a minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = per_minute, clock
        self._levels: dict[str, tuple[float, float]] = {}
        """Address → how full its bucket was, and when."""

    def count(self, client: str) -> None:
        """It happened once more."""
        level = self._level(client)
        self._levels.pop(client, None)
        if len(self._levels) >= _CLIENTS:
            self._levels.pop(next(iter(self._levels)))  # the one that has been quiet longest
        self._levels[client] = (level + 1, self._clock())

    def wait(self, client: str) -> int:
        """Whole seconds until the client may try again; 0: now."""
        return math.ceil(max(0.0, self._level(client) - self._most + 1) * 60 / self._most)

    def _level(self, client: str) -> float:
        level, then = self._levels.get(client, (0.0, 0.0))
        return max(0.0, level - (self._clock() - then) * self._most / 60)


class BoundedBody:
    """Reads a body before its endpoint is asked, up to a bound, whether or not its length was declared."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its whole body, or refuse it."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        declared = headers.get("content-length", "0")
        without = declared == "0" and "transfer-encoding" not in headers
        if without or (scope["method"] == "POST" and _UPLOAD.fullmatch(scope["path"])):
            await self._app(scope, receive, send)
            return
        body: bytes | Refusal | None = self._too_large()
        if declared.isdecimal() and len(declared) < 20 and int(declared) <= self._most:
            try:
                async with asyncio.timeout(_BODY_SECONDS):
                    body = await self._read(receive)
            except TimeoutError:
                message = f"the body took longer than {_BODY_SECONDS:g} s"
                body = Refusal(status=408, message=message, code="timeout", headers=_CLOSE)
        if isinstance(body, Refusal):
            await body(send)
        elif body is not None:
            await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | Refusal | None:
        """The body; None when the client left before its end."""
        parts, size, more = list[bytes](), 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > self._most:
                return self._too_large(_CLOSE)
        return b"".join(parts)

    def _too_large(self, headers: Mapping[str, str] = MappingProxyType({})) -> Refusal:
        return Refusal(
            status=413,
            message=f"the body is larger than {self._most:,} bytes",
            code="body_too_large",
            headers=dict(headers),
        )


_CLOSE = {"connection": "close"}
"""For a body without a known end. The rest of any other is read and dropped, else its client could not read why."""


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body as one message; then what comes behind it: that the client left."""
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
