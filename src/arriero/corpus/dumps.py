"""Records out of a dump in XML, each cut out of the bytes before any parser sees it.

A parser of the whole file ends at the first wrong byte. Dumps are regular: a record begins with one tag and ends with
another, and neither can stand in escaped text. So a broken record costs itself alone, one that is too long is never
held, and memory is one record's whatever the file's.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arriero.common.compression import DAMAGE, open_bytes
from arriero.common.errors import FormatError, require
from arriero.corpus.decoding import decode_utf8
from arriero.corpus.document import MAX_BYTES

CUT_OFF = "the dump is cut off or broken from here on"
TOO_LONG = "a record is longer than 64 MiB"
BROKEN = "broken record"
_LONGEST_HEAD = 1 << 20
"""Bytes before the first record: what the site says of itself takes some thousand."""
_CHUNK = 1 << 18


class Dump:
    """A dump's head, then its records.

    Args:
        path: the file, compressed or not.
        root: name of the outermost element.
        opening: the bytes with which every record begins.
        closing: those with which it ends.
    """

    def __init__(self, path: Path, root: str, opening: bytes, closing: bytes) -> None:
        self.head = b""
        """What stands before the first record; empty until that is asked for."""
        self._path, self._root, self._opening, self._closing = path, root, opening, closing

    def records(self) -> Iterator[tuple[bytes, str | None]]:
        """Each record and the reason why it is none: `CUT_OFF` (then it is the last), `TOO_LONG`, `BROKEN`.

        Raises:
            FormatError: the file is no such dump, or declares entities, which could expand without end.
        """
        with open_bytes(self._path) as (content, _):
            pieces = _pieces(content)
            try:
                rest = self._read_head(pieces)
                yield from self._cut(rest, pieces)
            except (*DAMAGE, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                yield b"", CUT_OFF

    def _read_head(self, pieces: Iterator[bytes]) -> bytes:
        """Set the head; return what is read beyond it."""
        data = b""
        for piece in pieces:
            data += piece
            if self._opening in data or self._end in data or len(data) > _LONGEST_HEAD:
                break
        self.head, opening, rest = data.partition(self._opening)
        if b"<!DOCTYPE" in self.head:
            raise FormatError(f"{self._path} declares a document type: expected a plain dump")
        if b"<" + self._root.encode() not in self.head or len(self.head) > _LONGEST_HEAD:
            raise FormatError(f"{self._path}: expected a dump in XML whose outermost element is <{self._root}>")
        return opening + rest if opening else self.head

    @property
    def _end(self) -> bytes:
        return b"</" + self._root.encode()

    def _cut(self, data: bytes, pieces: Iterator[bytes]) -> Iterator[tuple[bytes, str | None]]:
        opening, closing = self._opening, self._closing
        buffer, start = bytearray(data), 0
        searched = 0  # no closing begins before
        while True:
            found = buffer.find(closing, max(start, searched))
            if found >= 0:
                yield from self._one(bytes(buffer[start : found + len(closing)]))
                start = searched = found + len(closing)
                continue
            del buffer[:start]
            start, searched = 0, max(0, len(buffer) - len(closing) + 1)
            if len(buffer) > MAX_BYTES:
                yield b"", TOO_LONG
                if not self._skip(buffer, pieces):
                    yield b"", CUT_OFF
                    return
                searched = 0
                continue
            piece = next(pieces, b"")
            if not piece:
                break
            buffer += piece
        if opening in buffer or self._end not in buffer:
            yield b"", CUT_OFF

    def _one(self, data: bytes) -> Iterator[tuple[bytes, str | None]]:
        """What ends with a closing: normally one record, after openings that were never closed if there are any."""
        first, *parts = data.split(self._opening)
        if first.strip() or not parts:
            yield data if not parts else first, BROKEN
        for part in parts[:-1]:
            yield self._opening + part, BROKEN
        if parts:
            yield self._opening + parts[-1], None

    def _skip(self, buffer: bytearray, pieces: Iterator[bytes]) -> bool:
        """Forget what is read of a record that is too long, and read until after its end. False if there is none."""
        overlap = len(self._closing) - 1
        while True:
            del buffer[: max(0, len(buffer) - overlap)]
            piece = next(pieces, b"")
            if not piece:
                return False
            buffer += piece
            found = buffer.find(self._closing)
            if found >= 0:
                del buffer[: found + len(self._closing)]
                return True


def parse_record(data: bytes) -> tuple[Any, str | None]:
    """A record's lxml element, and the reason why there is none."""
    etree = require("lxml.etree", extra="corpus", purpose="reading dumps in XML")
    _, reason = decode_utf8(data)
    if reason:
        return None, reason
    parser = etree.XMLParser(huge_tree=True, resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(data, parser), None
    except etree.XMLSyntaxError:
        return None, BROKEN


def _pieces(content: Any) -> Iterator[bytes]:
    """The content, as it comes: what precedes a damage is never lost with it."""
    return iter(lambda: content.read1(_CHUNK), b"")
