"""Arrays that lie in files without a name and are mapped into memory, so that they may be longer than it.

The files are where Python puts temporary ones (`$TMPDIR` names the folder) and go with the process, even a killed one.
"""

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Column:
    """An array that grows at its end."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._length = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - until `finish`

    def append(self, values: Any) -> None:
        """Add numbers.

        Raises:
            OSError: the disk is full.
        """
        added = np.ascontiguousarray(values, self._dtype)
        self._file.write(added.tobytes())
        self._length += len(added)

    def finish(self) -> NDArray[Any]:
        """All of it, to read and write; nothing is added afterwards."""
        with self._file:
            if not self._length:
                return np.zeros(0, self._dtype)  # an empty file cannot be mapped
            self._file.flush()
            return np.asarray(np.memmap(self._file, self._dtype, "r+", shape=(self._length,)))  # quicker as a view

    def __del__(self) -> None:
        self._file.close()


def filled(length: int, value: float, dtype: DTypeLike, block: int) -> NDArray[Any]:
    """An array of equal numbers, to write to."""
    column = Column(dtype)
    for part in blocks(length, block):
        column.append(np.full(part.stop - part.start, value, dtype))
    return column.finish()


def blocks(length: int, block: int) -> Iterator[slice]:
    """An array's parts, one after the other."""
    for start in range(0, length, block):
        yield slice(start, min(length, start + block))
