"""The web pages: one small front end of plain HTML, CSS and ES modules, sent as the package has them.

Nothing is built and nothing comes from elsewhere. The Content-Security-Policy allows neither inline script nor any
script made from text (Trusted Types), so that what a model or a document says cannot become live HTML. A run's report,
which brings its own style, is written into a frame (`report-frame.html`) with an opaque origin, no network, and no
script but the frame's own.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Said here, since the system's own table of types may be wrong, and browsers refuse modules of a wrong type."""
_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_FRAME = "report-frame.html"
_FRAME_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


@dataclass(frozen=True, kw_only=True)
class _Page:
    """A file as it is sent."""

    content: bytes
    headers: dict[str, str]


@router.api_route("/", methods=["GET", "HEAD"])
def send_front(request: Request) -> Response:
    """The page that everything begins with."""
    return _send("index.html", request)


@router.api_route("/static/{path:path}", methods=["GET", "HEAD"])
def send_static(path: str, request: Request) -> Response:
    """A file of the front end; only what the package holds has a name here."""
    return _send(path, request)


def _send(name: str, request: Request) -> Response:
    """The file, or 304 where the browser has it already; it asks each time, so an update is seen at once."""
    page = _pages().get(name)
    if page is None:
        return Response("There is no such page.\n", status_code=404, media_type="text/plain")
    known = request.headers.get("if-none-match", "")
    if page.headers["ETag"] in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=page.headers)
    return Response(page.content, headers=page.headers)


@cache
def _pages() -> dict[str, _Page]:
    """All files by their path in the folder."""
    files = (path for path in sorted(_FOLDER.rglob("*")) if path.suffix in _TYPES)
    return {path.relative_to(_FOLDER).as_posix(): _read(path) for path in files}


def _read(path: Path) -> _Page:
    content = path.read_bytes()
    framed = path.name == _FRAME
    headers = {
        "Content-Type": _TYPES[path.suffix],
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:24]}"',
        "Cache-Control": "no-cache",
        "Content-Security-Policy": _frame_policy(content) if framed else _POLICY,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN" if framed else "DENY",
        "Referrer-Policy": "no-referrer",
    }
    return _Page(content=content, headers=headers)


def _frame_policy(content: bytes) -> str:
    """The frame's, which lets its own script run, by its digest."""
    script = re.search(rb"<script>(.*)</script>", content, re.DOTALL)
    assert script is not None
    return _FRAME_POLICY.format(digest=base64.b64encode(hashlib.sha256(script[1]).digest()).decode())
