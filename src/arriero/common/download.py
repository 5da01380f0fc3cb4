"""Download one file of known SHA-256, going on where a lost connection or a kill at any moment stopped an earlier try.

The standard library's client is used: its TLS reads the system's trust store and its proxies come from the environment,
while the clients that our dependencies bring change their names between versions.
"""

import http
import http.client
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from arriero.common.errors import ArrieroError, FormatError
from arriero.common.files import sha256

PIECE = 1 << 18
"""Bytes read at a time; also the most that a kill can lose."""

TIMEOUT_S = 60.0
"""Seconds without a byte after which a connection counts as lost."""

ATTEMPTS = 4
"""Connections tried in a row without one new byte before giving up."""

Report = Callable[[int, int | None], None]
"""Called with (bytes here, bytes in all or None) after every piece."""


def download(url: str, target: Path, *, digest: str, report: Report) -> None:
    """Bring `url` to `target`, going on where an earlier call stopped; a whole `target` is verified and kept.

    `target` may be incomplete while this runs, so it must be a name that nobody else reads (and one process at a time).

    Raises:
        FormatError: what came is not the file with SHA-256 `digest`; `target` is removed.
        ArrieroError: the address cannot be reached or the disk is full.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("http", "https"):
        raise ArrieroError(f"cannot download {url}: expected an http or https address")
    target.parent.mkdir(parents=True, exist_ok=True)
    fruitless = 0
    while True:
        before = _size(target)
        try:
            if _fetch(url, target, report):
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                raise ArrieroError(f"cannot download {_shown(url)}: {reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            reason = str(getattr(error, "reason", error) or type(error).__name__)
        except OSError as error:
            raise ArrieroError(f"cannot write {target}: {error.strerror or error}") from error
        fruitless = fruitless + 1 if _size(target) <= before else 0
        if fruitless >= ATTEMPTS:
            raise ArrieroError(f"cannot download {_shown(url)}: {reason} (what came is kept; the next try goes on)")
        time.sleep(fruitless)
    if (found := sha256(target)) != digest:
        target.unlink()
        raise FormatError(f"{_shown(url)} is not the expected file: SHA-256 {found[:16]}…, expected {digest[:16]}…")


def _fetch(url: str, target: Path, report: Report) -> bool:
    """One connection; True when the file is complete."""
    here = _size(target)
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})  # noqa: S310 - scheme checked above
    if here:
        request.add_header("Range", f"bytes={here}-")
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT_S, context=ssl.create_default_context())  # noqa: S310
    except urllib.error.HTTPError as error:
        with error:
            if here and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return True  # nothing lies beyond what is here; the checksum says whether it is right
            raise
    with reply:
        start, total = _extent(reply, here)
        with target.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            _copy(reply, file, start, total, report)
            return total is None or file.tell() >= total


def _extent(reply: http.client.HTTPResponse, asked: int) -> tuple[int, int | None]:
    """(offset of the first byte that comes, whole length): a server may ignore the range and send everything."""
    if reply.status == http.HTTPStatus.PARTIAL_CONTENT:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("Content-Range", ""))
        if span and int(span[1]) == asked:
            return asked, None if span[2] == "*" else int(span[2])
        raise ConnectionError("the server answered with another range than the one asked for")
    length = reply.headers.get("Content-Length")
    return 0, int(length) if length and length.isdigit() else None


def _copy(reply: IO[bytes], file: IO[bytes], start: int, total: int | None, report: Report) -> None:
    here = start
    report(here, total)
    while piece := reply.read(PIECE):
        file.write(piece)
        here += len(piece)
        report(here, total)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _shown(url: str) -> str:
    """The address as an error line shows it: no user, password, query or fragment."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
