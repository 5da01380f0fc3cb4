"""Pages out of WARC and WET files (ISO 28500), as CommonCrawl gives them.

A WARC's responses hold HTML, a WET's conversions the text already. Requests, revisits and the like hold no page and are
passed over. A record that cannot be read becomes a document that says so, and reading goes on at the next place where a
record may begin: the next line `WARC/1…`, or in a compressed file the next member.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from arriero.common.errors import require
from arriero.corpus.decoding import decode_page, why_unusable
from arriero.corpus.document import MAX_BYTES, Document

BROKEN = "warc: broken record"
CUT = "warc: the file is cut off within a record"
_PAGES = ("text/html", "application/xhtml+xml", "text/plain")
_RECORD = re.compile(rb"(?:\A|\n)(WARC/1\.)")
_SWALLOWED = re.compile(rb"\n\r?\nWARC/1\.\d\r?\n")
_MEMBER = re.compile(rb"(\x1f\x8b\x08)")
_PIECE = 1 << 20


def read_warc(path: Path, name: str) -> Iterator[Document]:
    """The pages of a file, `.gz` or not; ids end in the number of the page or broken record.

    Raises:
        MissingExtraError: FastWARC is not installed.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        mark = _MEMBER if file.read(2) == b"\x1f\x8b" else _RECORD
        number, start = 0, 0 if path.stat().st_size else None
        while start is not None:
            records = _Records(file, start)
            for page in records:
                number += 1
                document = Document(id=f"{name}#{number}", text="", origin=str(path))
                yield document.drop(page) if isinstance(page, str) else _read_page(document, page)
            start = None if records.whole else _find(file, mark, records.place + 1)


class _Page:
    """A record that holds a page: its headers, and the bytes of its block."""

    def __init__(self, record: Any, block: bytes) -> None:
        self.headers, self.http, self.block = record.headers, record.is_http, block


class _Records:
    """The records from a byte of the file on, up to the first that is broken."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self.place = file, start
        """The byte at which the last record begins, or should."""
        self.whole = False
        """Whether the file's end was reached in order."""

    def __iter__(self) -> Iterator["_Page | str"]:
        """Pages, or the reason why there is none."""
        warc = require("fastwarc.warc", extra="corpus", purpose="reading WARC files")
        self._file.seek(start := self.place)
        found = False
        try:
            for record in warc.ArchiveIterator(self._file, parse_http=False):
                self.place, found = start + record.stream_pos, True
                if not record.headers.get("WARC-Type"):
                    yield BROKEN
                    continue
                if not _holds_page(record):
                    continue
                block = record.reader.read(MAX_BYTES + 1)
                if len(block) < min(record.content_length, MAX_BYTES + 1):
                    yield CUT
                    return
                if len(block) > MAX_BYTES:
                    yield "warc: longer than 64 MiB"
                elif _SWALLOWED.search(block):
                    yield "warc: wrong Content-Length (another record lies within)"
                    return
                else:
                    yield _Page(record, block)
            self.whole = True
            if not found:
                yield CUT
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            yield BROKEN


def _holds_page(record: Any) -> bool:
    kind = str(record.record_type)
    return kind in ("response", "conversion") or (kind == "resource" and _url(record.headers).startswith("http"))


def _url(headers: Any) -> str:
    """Wget puts it between angle brackets."""
    return (headers.get("WARC-Target-URI") or "").strip("<>")


def _read_page(document: Document, page: _Page) -> Document:
    """The document of a page, dropped if the server refused it, or it is no text."""
    document = dataclasses.replace(document, origin=_url(page.headers) or document.origin)
    document = document.with_metadata(date=page.headers.get("WARC-Date"))
    content_type, body = page.headers.get("Content-Type") or "", page.block
    if page.http:
        try:
            status, content_type, body = _parse_http(page.block)
        except (OSError, ValueError):
            return document.drop("warc: broken HTTP response")
        if not 200 <= status < 300:
            return document.drop("warc: the server refused (status)")
    media = content_type.partition(";")[0].strip().lower()
    document = document.with_metadata(content_type=media)
    if media not in _PAGES:
        return document.drop("warc: no page (content type)")
    if len(body) > MAX_BYTES:
        return document.drop("warc: longer than 64 MiB")
    if reason := why_unusable(body):
        return document.drop(reason)
    text = decode_page(body, _charset(content_type))
    return document.drop("encoding: not as declared") if text is None else document.with_text(text)


def _parse_http(block: bytes) -> tuple[int, str, bytes]:
    """Status, content type, and the body, decoded from its transfer and content encodings."""
    warc = require("fastwarc.warc", extra="corpus", purpose="reading WARC files")
    record = warc.WarcRecord()
    record.set_bytes_content(block)
    record.is_http = True
    record.parse_http(auto_decode="all", quirks_mode=True)
    headers = record.http_headers
    return headers.status_code or 0, headers.get("Content-Type") or "", record.reader.read(MAX_BYTES + 1)


def _charset(content_type: str) -> str | None:
    found = re.search(r"""charset\s*=\s*["']?([\w.:-]+)""", content_type, re.IGNORECASE)
    return found[1] if found else None


def _find(file: BinaryIO, mark: re.Pattern[bytes], start: int) -> int | None:
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
