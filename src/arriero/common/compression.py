"""Compressed files read as a stream of bytes, in bounded memory, and never ending early in silence."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from arriero.common.errors import require

_READERS: dict[str, Callable[[IO[bytes]], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SUFFIXES = (*_READERS, ".zst")

_PIECE = 2048
"""Compressed bytes at a time: Zstandard makes at most 64 MiB of them, whatever a file claims."""
_LONGEST_WINDOW = 1 << 31
"""Bytes of memory that a frame may ask for: what `zstd --long=31` makes, as corpora of web text are often packed."""


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Yield (the content, the file itself): the position of the second says how much of the first is read.

    Raises:
        MissingExtraError: a Zstandard file, without the package `zstandard`.
        OSError, EOFError, zlib.error, lzma.LZMAError: while reading a damaged file; see `DAMAGE`.
    """
    with path.open("rb") as file:
        if path.suffix == ".zst":
            zstandard = require("zstandard", extra="train", purpose="reading a .zst file")
            content: Any = io.BufferedReader(_ZstdFile(file, zstandard), 1 << 18)
        elif path.suffix in SUFFIXES:
            content = _READERS[path.suffix](file)
        else:
            content = file
        with content:
            yield content, file


DAMAGE = (EOFError, zlib.error, lzma.LZMAError)
"""What reading a damaged file raises, beside an `OSError` that names no file."""


class _ZstdFile(io.RawIOBase):
    """The content of a file of Zstandard frames. The package's own reader takes a file that is cut short for whole."""

    def __init__(self, file: IO[bytes], zstandard: Any) -> None:
        self._file = file
        self._context = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW)
        self._failure = zstandard.ZstdError
        self._frame: Any = None
        self._ready = memoryview(b"")
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            piece = self._rest or self._file.read(_PIECE)
            if not piece:
                if self._frame is not None:
                    raise EOFError("it ends inside a Zstandard frame")
                return 0
            self._ready = memoryview(self._decompress(piece))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _decompress(self, piece: bytes) -> bytes:
        frame = self._frame or self._context.decompressobj()
        try:
            content: bytes = frame.decompress(piece)
        except self._failure as error:
            raise EOFError(str(error)) from error
        self._rest = frame.unused_data if frame.eof else b""
        self._frame = None if frame.eof else frame
        return content
