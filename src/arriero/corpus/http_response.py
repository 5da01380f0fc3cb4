"""A page out of an HTTP response as an archive keeps it (RFC 9112): status, type, and the body, decoded.

A body may be sent in chunks and compressed. Archives often keep it decoded under headers that say otherwise: a body
that is no gzip, though it is called so, is taken as it is. None is decoded beyond `MAX_BYTES`, whatever it would make.
"""

import gzip
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from arriero.common.errors import require
from arriero.corpus.document import MAX_BYTES

_PURPOSE = "reading WARC files"


@dataclass(frozen=True, slots=True)
class Response:
    """What a server answered."""

    status: int
    content_type: str
    """With its parameters; '' if none is declared."""
    body: bytes
    """At most `MAX_BYTES + 1` bytes: one more than the limit says that it is longer."""


def parse_response(block: bytes) -> Response:
    """The response in a record's block.

    Raises:
        EOFError, OSError, ValueError, zlib.error: it is broken; see `BROKEN_RESPONSE`.
    """
    warc = require("fastwarc.warc", extra="corpus", purpose=_PURPOSE)
    record = warc.WarcRecord()
    record.set_bytes_content(block)
    record.is_http = True
    record.parse_http(auto_decode="transfer", quirks_mode=True)
    headers = record.http_headers
    body: bytes = record.reader.read(MAX_BYTES + 1)
    codings = (headers.get("Content-Encoding") or "").lower().replace(",", " ").split()
    for coding in reversed(codings):
        body = _DECODERS.get(coding, _as_it_is)(body)
    return Response(headers.status_code or 0, headers.get("Content-Type") or "", body)


BROKEN_RESPONSE = (EOFError, OSError, ValueError, zlib.error)
"""What parsing a broken response raises."""


def _gzip(body: bytes) -> bytes:
    if not body.startswith(b"\x1f\x8b"):
        return body
    with gzip.open(io.BytesIO(body)) as content:
        return content.read(MAX_BYTES + 1)


def _deflate(body: bytes) -> bytes:
    """With a zlib header, as the standard has it, or bare, as some servers send it."""
    headed = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    decompressor = zlib.decompressobj(zlib.MAX_WBITS if headed else -zlib.MAX_WBITS)
    content = decompressor.decompress(body, MAX_BYTES + 1)
    if len(content) <= MAX_BYTES and not decompressor.eof:
        raise EOFError("the body ends within its compression")
    return content


def _brotli(body: bytes) -> bytes:
    streams = require("fastwarc.stream_io", extra="corpus", purpose=_PURPOSE)
    content: bytes = streams.BrotliReader(io.BytesIO(body)).read(MAX_BYTES + 1)
    return content


def _zstandard(body: bytes) -> bytes:
    streams = require("fastwarc.stream_io", extra="corpus", purpose=_PURPOSE)
    content: bytes = streams.ZstdReader(io.BytesIO(body)).read(MAX_BYTES + 1)
    return content


def _as_it_is(body: bytes) -> bytes:
    return body


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstandard,
}
