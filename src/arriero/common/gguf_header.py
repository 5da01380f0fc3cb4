"""The head of a GGUF file: its metadata and the list of its tensors, read in a fraction of a second.

The container of GGUF versions 2 and 3, little-endian: magic, version, counts, key-value pairs, tensor entries, then
padding to `general.alignment` and the tensors' bytes. It stands on the ground floor because a tokenizer and a model
live in the same file. The `gguf` package's own reader makes several arrays for each string of a vocabulary (2 s for
SmolLM2's 98,000 against 0.03 s here) and trusts every length; here each is checked against the file's size first.
"""

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arriero.common.errors import FormatError, NotFoundError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_MIN_ENTRY = 8 + 4 + 1  # bytes of the smallest key-value pair or tensor entry: absurd counts are refused at once


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """One entry of the tensor list."""

    name: str
    shape: tuple[int, ...]
    """Rows first, as torch has it (the file stores dimensions reversed)."""
    kind: int
    """ggml's number of the storage type."""
    start: int
    """Offset of the first byte in the file."""


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """Everything before the tensors' bytes."""

    path: Path
    metadata: dict[str, Any]
    """Key → int, float, bool, str or a list of them."""
    tensors: dict[str, GgufTensor]


def read_header(path: Path) -> GgufHeader:
    """Read a GGUF file's metadata and tensor list.

    Raises:
        NotFoundError: there is no such file.
        FormatError: it is no GGUF file, is big-endian or of another version, or ends early; the message names the key.
    """
    if not path.is_file():
        raise NotFoundError(f"no such file: {path}")
    if path.stat().st_size < len(MAGIC):
        raise FormatError(f"{path}: not a GGUF file (it is {path.stat().st_size} bytes long)")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(path, data).header()


class _Reader:
    """A position in the file, and the values that are read at it."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.position = 0
        self.what = "the file's head"

    def header(self) -> GgufHeader:
        if self._take(4) != MAGIC:
            raise FormatError(f"{self.path}: not a GGUF file (it does not begin with 'GGUF')")
        version = self._scalar("I")
        if version & 0xFFFF == 0:
            raise FormatError(f"{self.path}: big-endian GGUF is not supported")
        if version not in VERSIONS:
            raise FormatError(f"{self.path}: GGUF version {version} is not supported: expected 2 or 3")
        tensor_count, pair_count = self._scalar("Q"), self._scalar("Q")
        self._expect((tensor_count + pair_count) * _MIN_ENTRY)
        metadata = dict(self._pairs(pair_count))
        entries = self._entries(tensor_count)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise FormatError(f"{self.path}: general.alignment is {alignment!r}: expected a power of two")
        base = -(-self.position // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in entries:
            if name in tensors:
                raise FormatError(f"{self.path}: tensor '{name}' occurs twice")
            tensors[name] = GgufTensor(name=name, shape=shape, kind=kind, start=base + offset)
        return GgufHeader(path=self.path, metadata=metadata, tensors=tensors)

    def _pairs(self, count: int) -> list[tuple[str, Any]]:
        pairs = []
        for number in range(count):
            self.what = f"metadata key {number + 1} of {count}"
            key = self._string()
            self.what = f"metadata key '{key}'"
            pairs.append((key, self._value(self._scalar("I"))))
        return pairs

    def _entries(self, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
        entries = []
        for number in range(count):
            self.what = f"tensor entry {number + 1} of {count}"
            name = self._string()
            self.what = f"the entry of tensor '{name}'"
            dimensions = self._scalar("I")
            if not 1 <= dimensions <= MAX_DIMENSIONS:
                raise FormatError(f"{self.path}: tensor '{name}' has {dimensions} dimensions: expected 1 to 4")
            shape = tuple(reversed(self._array("Q", dimensions)))
            entries.append((name, shape, self._scalar("I"), self._scalar("Q")))
        return entries

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise FormatError(f"{self.path}: {self.what} has the unknown value type {kind}")
        inner, length = self._scalar("I"), self._scalar("Q")
        if inner in _SCALARS:
            return list(self._array(_SCALARS[inner], length))
        if inner != _STRING:
            raise FormatError(f"{self.path}: {self.what} is an array of value type {inner}, which is not supported")
        return self._strings(length)

    def _scalar(self, code: str) -> Any:
        return self._array(code, 1)[0]

    def _array(self, code: str, length: int) -> tuple[Any, ...]:
        self._expect(length * struct.calcsize(code))
        return struct.unpack(f"<{length}{code}", self._take(length * struct.calcsize(code)))

    def _string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, length: int) -> list[str]:
        """The hot loop of loading: a vocabulary and its merges are tens of thousands of strings."""
        self._expect(length * _LENGTH.size)
        data, position, end = self.data, self.position, len(self.data)
        unpack: Callable[[mmap.mmap, int], tuple[int]] = _LENGTH.unpack_from
        strings = []
        try:
            for _ in range(length):
                start = position + 8
                position = start + unpack(data, position)[0]
                if position > end:
                    raise self._truncated()
                strings.append(data[start:position].decode())
        except struct.error as error:
            raise self._truncated() from error
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.path}: {self.what} is not UTF-8 text") from error
        self.position = position
        return strings

    def _take(self, size: int) -> bytes:
        self._expect(size)
        self.position += size
        return self.data[self.position - size : self.position]

    def _expect(self, size: int) -> None:
        if self.position + size > len(self.data):
            raise self._truncated()

    def _truncated(self) -> FormatError:
        return FormatError(f"{self.path}: truncated or corrupt: it ends inside {self.what}")
