"""Pages out of WARC and WET files (ISO 28500), as CommonCrawl gives them.

A WARC's responses hold HTML, a WET's conversions the text already. Requests, revisits and the like hold no page and are
passed over. A record that cannot be read becomes a document that says so, and reading goes on at the next place where a
record may begin: the next line `WARC/1…`, or in a file that is compressed record by record the next member.
"""

import dataclasses
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from arriero.common.compression import DAMAGE
from arriero.common.errors import require
from arriero.corpus.decoding import decode_page, why_unusable
from arriero.corpus.document import MAX_BYTES, Document
from arriero.corpus.http_response import BROKEN_RESPONSE, parse_response

BROKEN = "warc: broken record"
CUT = "warc: the file is cut off within a record"
WRONG_LENGTH = "warc: wrong Content-Length (another record lies within)"
DAMAGED = "warc: the file is cut off or damaged from here on"
TOO_LONG = "warc: longer than 64 MiB"
_PAGES = ("text/html", "application/xhtml+xml", "text/plain")
_RECORD = re.compile(rb"(?:\A|\n)(WARC/1\.)")
_ANOTHER = re.compile(rb"\n\r?\nWARC/1\.\d\r?\n")
_MEMBER = re.compile(rb"(\x1f\x8b\x08)")
_PIECE = 1 << 20
_HELD = 1 << 23
"""Bytes of a decompressed file that can be gone back without doing it again."""


def read_warc(path: Path, name: str) -> Iterator[Document]:
    """The pages of a file, `.gz` or not; ids end in the number of the page or broken record.

    Raises:
        MissingExtraError: FastWARC is not installed.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        inside = _Inside(file) if _compressed_whole(file) else None
        content: IO[bytes] = io.BufferedReader(inside, _HELD) if inside else file
        mark = _MEMBER if content.read(2) == b"\x1f\x8b" else _RECORD
        number, start = 0, 0 if path.stat().st_size else None
        while start is not None:
            records = _Records(content, start)
            for page in records:
                number += 1
                document = Document(id=f"{name}#{number}", text="", origin=str(path))
                yield document.drop(page) if isinstance(page, str) else _read_page(document, page)
            start = None if records.whole else _find(content, mark, records.place + 1)
        if inside and inside.damaged:
            yield Document(id=f"{name}#{number + 1}", text="", origin=str(path)).drop(DAMAGED)


def _compressed_whole(file: IO[bytes]) -> bool:
    """Whether a second record begins in the first member's first 64 KiB; the file is at its begin before and after."""
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
    rest, content = file.read(1 << 16), b""
    file.seek(0)
    try:
        while rest and not decompressor.eof and len(content) < _PIECE:
            content += decompressor.decompress(rest, 1 << 14)
            rest = decompressor.unconsumed_tail
    except zlib.error:
        pass  # what came before the damage says it, or nothing does
    return bool(_ANOTHER.search(content))


class _Inside(io.RawIOBase):
    """The content of a gzip file up to where it is damaged or cut off, as if it ended there."""

    def __init__(self, file: IO[bytes]) -> None:
        self._content = gzip.GzipFile(fileobj=file)
        self.damaged = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._content.tell()

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Backwards, all before is decompressed again."""
        return self._content.seek(place, whence)

    def readinto(self, buffer: Any) -> int:
        filled = 0
        try:
            while piece := self._content.read1(len(buffer) - filled):
                buffer[filled : filled + len(piece)] = piece
                filled += len(piece)
        except (*DAMAGE, gzip.BadGzipFile):
            self.damaged = True
        return filled


class _Page:
    """A record that holds a page: its headers, and the bytes of its block."""

    def __init__(self, record: Any, block: bytes) -> None:
        self.headers, self.http, self.block = record.headers, record.is_http, block


class _Records:
    """The records from a byte of the file on, up to the first that is broken."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file, self.place = file, start
        """The byte at which the last record begins, or should."""
        self.whole = False
        """Whether the file's end was reached in order."""

    def __iter__(self) -> Iterator["_Page | str"]:
        """Pages, or the reason why there is none."""
        warc = require("fastwarc.warc", extra="corpus", purpose="reading WARC files")
        self._file.seek(self.place)
        found, quoting = False, None
        try:
            for record in warc.ArchiveIterator(self._file, parse_http=False):
                if quoting:
                    yield quoting  # whole: another record begins where it ends
                self.place, found, quoting = record.stream_pos, True, None
                if str(record.record_type) == "unknown" or record.headers.get("Content-Length") is None:
                    yield BROKEN
                    continue
                block = record.reader.read(MAX_BYTES + 1)
                rest = sum(map(len, iter(partial(record.reader.read, _PIECE), b"")))
                if len(block) + rest < record.content_length:
                    yield CUT
                    return
                if not _holds_page(record):
                    continue
                if len(block) > MAX_BYTES:
                    yield TOO_LONG
                elif _ANOTHER.search(block):
                    quoting = _Page(record, block)
                else:
                    yield _Page(record, block)
            self.whole = True
            if quoting:
                yield quoting
            if not found:
                yield CUT
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            yield WRONG_LENGTH if quoting else BROKEN


def _holds_page(record: Any) -> bool:
    kind = str(record.record_type)
    return kind in ("response", "conversion") or (kind == "resource" and _url(record.headers).startswith("http"))


def _url(headers: Any) -> str:
    """Wget puts it between angle brackets."""
    return (headers.get("WARC-Target-URI") or "").strip("<>")


def _read_page(document: Document, page: _Page) -> Document:
    """The document of a page, dropped if the server refused it, or it is no text."""
    document = dataclasses.replace(document, origin=_url(page.headers) or document.origin)
    if date := page.headers.get("WARC-Date"):
        document = document.with_metadata(date=date)
    content_type, body = page.headers.get("Content-Type") or "", page.block
    if page.http:
        try:
            response = parse_response(page.block)
        except BROKEN_RESPONSE:
            return document.drop("warc: broken HTTP response")
        if not 200 <= response.status < 300:
            return document.drop("warc: the server refused (status)")
        content_type, body = response.content_type, response.body
    media = content_type.partition(";")[0].strip().lower()
    document = document.with_metadata(content_type=media)
    if media not in _PAGES:
        return document.drop("warc: no page (content type)")
    if len(body) > MAX_BYTES:
        return document.drop(TOO_LONG)
    if reason := why_unusable(body):
        return document.drop(reason)
    text = decode_page(body, _charset(content_type))
    return document.drop("encoding: not as declared") if text is None else document.with_text(text)


def _charset(content_type: str) -> str | None:
    found = re.search(r"""charset\s*=\s*["']?([\w.:-]+)""", content_type, re.IGNORECASE)
    return found[1] if found else None


def _find(file: IO[bytes], mark: re.Pattern[bytes], start: int) -> int | None:
    """Where the next record may begin: the first byte of the mark's group, from byte `start` on."""
    file.seek(start)
    held, place = b"\r", start - 1  # of the piece; its first byte can begin no mark
    while piece := file.read(_PIECE):
        held += piece
        if found := mark.search(held):
            return place + found.start(1)
        place += len(held) - 8
        held = held[-8:]
    return None
