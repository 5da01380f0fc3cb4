"""Write token shards: each file is whole or absent, and what was finished outlives a kill at any moment."""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_file
from arriero.train.shards import Ids, Shard

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ShardWriter:
    """Gathers documents into shard number `number`; `finish` gives it its name."""

    def __init__(self, folder: Path, number: int, dtype: type[np.uint16] | type[np.uint32]) -> None:
        self._folder = folder
        self._names = (f"tokens-{number:05}.bin", f"documents-{number:05}.bin")
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._hash = hashlib.sha256()
        self._ends = [0]
        self._bytes = self._skipped = 0
        self._stack = ExitStack()
        with writing(folder):
            aside = self._stack.enter_context(atomic_file(folder / self._names[0]))
            self._file: IO[bytes] = aside.open("wb", buffering=1 << 20)

    @property
    def tokens(self) -> int:
        return self._ends[-1]

    @property
    def documents(self) -> int:
        return len(self._ends) - 1

    def add(self, ids: Ids | NDArray[Any], size: int) -> None:
        """Append a document whose text has `size` bytes.

        Raises:
            ArrieroError: the disk is full.
        """
        data = np.ascontiguousarray(ids, self._dtype).data
        with writing(self._folder):
            self._file.write(data)
        self._hash.update(data)
        self._ends.append(self._ends[-1] + len(ids))
        self._bytes += size

    def skip(self, documents: int) -> None:
        """Count empty documents that were left out."""
        self._skipped += documents

    def finish(self) -> Shard:
        """Flush to the disk and rename.

        Raises:
            ArrieroError: the disk is full.
        """
        ends = np.array(self._ends, np.dtype("<u8")).tobytes()
        try:
            with writing(self._folder):
                self._file.close()
                with atomic_file(self._folder / self._names[1]) as aside:
                    aside.write_bytes(ends)
        except BaseException:
            self.discard()
            raise
        with writing(self._folder):
            self._stack.close()
        return Shard(
            tokens_file=self._names[0],
            documents_file=self._names[1],
            tokens=self.tokens,
            documents=self.documents,
            bytes=self._bytes,
            skipped=self._skipped,
            sha256_tokens=self._hash.hexdigest(),
            sha256_documents=hashlib.sha256(ends).hexdigest(),
        )

    def discard(self) -> None:
        """Remove what is written so far."""
        stop = ArrieroError("discarded")
        with suppress(OSError):  # a full disk refuses the last bytes of a file that goes away
            self._file.close()
        self._stack.__exit__(type(stop), stop, None)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A block that writes into `folder`: a full disk is the user's to mend, and is told so.

    Raises:
        ArrieroError: no space is left; other errors stay as they are.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise ArrieroError(
            f"no space is left on the disk of {folder}: free some and run the same command again; "
            "the finished shards are kept"
        ) from error
