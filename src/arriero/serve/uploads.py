"""Uploaded files on their way from a request to the disk: streamed, bounded, and under names that are safe.

A name says nothing about where its file goes: of a path the last part counts, and what is left is one plain file's
name. Files are written into a folder of their own as `0`, `1`, …; names they get when they are taken in (`intake.py`).
The parser here is python-multipart's, without starlette's spooling, which would take in any amount first.
"""

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from arriero.rag.sources import printable
from arriero.serve.errors import ApiError

FIELD = "files"
"""Name of the form's field."""
MOST_FILES = 1000
"""Of one request."""
MOST_TIMES = 16
"""A request may hold so many times the bytes of the largest file."""
_NAME_BYTES = 200
"""Most bytes of a name; file systems allow 255, and temporary names are longer."""
_HEADER_BYTES = 8192
"""Most bytes of a header of a part, with its name."""
_IDLE_SECONDS = 60.0
"""Without a byte from the client."""
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
"""Names that Windows gives to devices, whatever their suffix: a collection may be copied there."""


@dataclass(frozen=True)
class Upload:
    """A file that has arrived."""

    name: str
    """Safe, and no other file of the request has it."""
    path: Path
    size: int


def safe_name(given: str) -> str:
    """One plain file name for what a client calls a file.

    The last part of a path, composed (NFC), without control and direction characters, dots and blanks at its ends, or
    lone surrogates; at most 200 bytes, its suffix kept; never empty.
    """
    last = given.replace("\\", "/").rstrip("/").rpartition("/")[2]
    composed = unicodedata.normalize("NFC", last.encode("utf-8", "ignore").decode())
    name = "".join(char for char in composed if printable(char) == char and char != "/").strip(". ") or "unnamed"
    if name.partition(".")[0].strip().lower() in _RESERVED:
        name = f"_{name}"
    return _shorten(name, _NAME_BYTES)


def number_names(names: list[str]) -> list[str]:
    """Names of which no two are equal, whatever their case: a second `a.txt` becomes `a (2).txt`."""
    taken, numbered = {name.casefold() for name in names}, list[str]()
    numbers: dict[str, Iterator[int]] = {}
    for name in names:
        free = name
        if (key := name.casefold()) in numbers:
            free = next(other for number in numbers[key] if (other := _number(name, number)).casefold() not in taken)
        numbers.setdefault(key, count(2))
        taken.add(free.casefold())
        numbered.append(free)
    return numbered


async def receive_files(
    stream: AsyncIterator[bytes], content_type: str, folder: Path, *, most_bytes: int
) -> list[Upload]:
    """Write the files of a form into a folder as they arrive.

    Args:
        stream: the request's body.
        content_type: its header, with the boundary.
        folder: exists, and is empty.
        most_bytes: of one file.

    Raises:
        ApiError: 400 no form, or one that is damaged or holds something else; 408 the client fell silent; 413 a file,
            their number, or the request is too large; 507 the disk is full.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(400, f"expected a form (multipart/form-data with a boundary) with the files in '{FIELD}'", FIELD)
    form = _Form(folder, most_bytes)
    left = most_bytes * MOST_TIMES
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        async for chunk in _timed(stream):
            left -= len(chunk)
            if left < 0:
                raise ApiError(413, f"the request is larger than {most_bytes * MOST_TIMES:,} bytes: send fewer at once")
            await run_in_threadpool(parser.write, chunk)
    except FormParserError as error:
        raise ApiError(400, f"the form is damaged: {error}", FIELD) from error
    except OSError as error:
        raise ApiError(507, f"the files cannot be kept ({error.strerror}): free some space", FIELD) from error
    finally:
        form.close()
    if not form.ended:
        raise ApiError(400, "the form ends before its last boundary", FIELD)
    if not form.files:
        raise ApiError(400, f"no file in the form: expected one or more in '{FIELD}'", FIELD)
    names = number_names([name for name, _, _ in form.files])
    return [Upload(name, path, size) for name, (_, path, size) in zip(names, form.files, strict=True)]


async def _timed(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, with an end for clients that fall silent."""
    while True:
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ApiError(408, f"nothing came for {_IDLE_SECONDS:g} s", code="timeout") from None
        yield chunk


class _Form:
    """What the parser finds, part by part."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.files: list[tuple[str, Path, int]] = []
        """Name, path and bytes."""
        self.ended = False
        self._folder, self._most = folder, most_bytes
        self._header, self._value = b"", b""
        self._disposition = ""
        self._file: IO[bytes] | None = None
        self._name, self._size = "", 0

    def callbacks(self) -> Any:
        """For the parser."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._write,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def close(self) -> None:
        """Close the file at hand, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self._disposition = ""

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header) + len(self._value) > _HEADER_BYTES:
            raise ApiError(400, f"a header of the form is longer than {_HEADER_BYTES:,} bytes", FIELD)

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value.decode("latin-1")
        self._header, self._value = b"", b""

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        field = options.get(b"name", b"").decode("utf-8", "replace")
        if field != FIELD:
            raise ApiError(400, f"unknown field {field}: expected files in '{FIELD}'", FIELD, "unknown_parameter")
        given = options.get(b"filename", b"").decode("utf-8", "replace")
        if not given:
            raise ApiError(400, f"'{FIELD}' holds something without a file's name: choose a file", FIELD)
        if len(self.files) >= MOST_FILES:
            raise ApiError(413, f"more than {MOST_FILES:,} files: send fewer at once", FIELD)
        self._name, self._size = safe_name(given), 0
        self._file = (self._folder / str(len(self.files))).open("xb")

    def _write(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None
        self._size += end - start
        if self._size > self._most:
            raise ApiError(413, f"{self._name} is larger than {self._most:,} bytes", FIELD, "file_too_large")
        self._file.write(data[start:end])

    def _end_part(self) -> None:
        assert self._file is not None
        self.files.append((self._name, Path(self._file.name), self._size))
        self.close()

    def _end(self) -> None:
        self.ended = True


def _number(name: str, number: int) -> str:
    path = PurePosixPath(_shorten(name, _NAME_BYTES - 8))
    return f"{path.stem} ({number}){path.suffix}"


def _shorten(name: str, most: int) -> str:
    """At most so many bytes, the suffix kept where it is one."""
    if len(name.encode()) <= most:
        return name
    suffix = PurePosixPath(name).suffix
    suffix = suffix if len(suffix.encode()) <= 20 else ""
    stem = name[: len(name) - len(suffix)].encode()[: most - len(suffix.encode())]
    return stem.decode("utf-8", "ignore").rstrip(". ") + suffix
