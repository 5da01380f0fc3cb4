"""HTTP bodies: every encoding that servers send, told wrongly or cut; none grows beyond the limit."""

import gzip
import zlib
from collections.abc import Callable

import pytest

pytest.importorskip("fastwarc")

from arriero.corpus.document import MAX_BYTES
from arriero.corpus.http_response import BROKEN_RESPONSE, parse_response

TEXT = b"<p>" + b" ".join(b"%d" % (number * 7919) for number in range(500))


def block(headers: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n{headers}\r\n\r\n".encode() + body


def bare_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def chunks(data: bytes) -> bytes:
    parts = [data[start : start + 100] for start in range(0, len(data), 100)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def brotli(data: bytes) -> bytes:
    return pytest.importorskip("brotli").compress(data)


def zstandard(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(data)


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", bare_deflate),
        ("br", brotli),
        ("zstd", zstandard),
        ("identity", bytes),
        ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
        ("gzip", bytes),
    ],
)
def test_bodies_are_decoded(coding: str, encode: Callable[[bytes], bytes]) -> None:
    response = parse_response(block(f"Content-Encoding: {coding}", encode(TEXT)))
    assert (response.status, response.content_type, response.body) == (200, "text/html; charset=utf-8", TEXT)
    in_chunks = block(f"Content-Encoding: {coding}\r\nTransfer-Encoding: chunked", chunks(encode(TEXT)))
    assert parse_response(in_chunks).body == TEXT


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", bare_deflate),
        ("br", brotli),
        ("zstd", zstandard),
    ],
)
def test_half_a_body_is_broken(coding: str, encode: Callable[[bytes], bytes]) -> None:
    data = encode(TEXT)
    with pytest.raises(BROKEN_RESPONSE):
        parse_response(block(f"Content-Encoding: {coding}", data[: len(data) // 2]))


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("br", brotli),
        ("zstd", zstandard),
    ],
)
def test_what_expands_without_end_is_decoded_to_the_limit(coding: str, encode: Callable[[bytes], bytes]) -> None:
    bomb = block(f"Content-Encoding: {coding}", encode(bytes(2 * MAX_BYTES)))
    assert len(parse_response(bomb).body) == MAX_BYTES + 1
