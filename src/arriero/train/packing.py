"""One source's documents as an endless stream of tokens, cut into rows: nothing padded, nothing dropped.

Documents follow each other without a gap, each epoch in a fresh order. A document that a row's end cuts goes on in the
next row of its source, as in the papers' concatenation; its first token there was the last target of the row before. So
each token is an input once an epoch, and each but a document's first a target once.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import IGNORED
from arriero.train.permutation import Permutation
from arriero.train.shards import Ids, Places, ShardReader

AHEAD = 1024
"""Documents that are looked up at a time."""


class Piece(NamedTuple):
    """A run of tokens of one document that lies in one row."""

    start: int
    """In the row."""
    end: int


class StreamPosition(NamedTuple):
    """The next token of a stream: all the state there is."""

    epoch: int
    place: int
    """Of the document, in the epoch's order."""
    offset: int
    """In the document."""


START = StreamPosition(0, 0, 0)


class SourceStream:
    """A position in a source's stream of tokens."""

    def __init__(
        self, reader: ShardReader, key: str, *, shuffle: bool = True, position: StreamPosition = START
    ) -> None:
        """Begin at `position`; each epoch's order follows from `key` and its number, or is that of the shards.

        Raises:
            ArrieroError: the source is empty, or the position is outside of it.
        """
        if not len(reader):
            raise ArrieroError(f"{reader.folder} is empty: it has no documents")
        self._reader, self._key, self._shuffle = reader, key, shuffle
        self.folder = reader.folder
        self._epoch, self._place, self._offset = position
        if min(position) < 0 or self._place >= len(reader):
            raise ArrieroError(
                f"position {tuple(position)} is outside the {len(reader):,} documents of {reader.folder}"
            )
        self._load()
        if self._offset >= self._lengths[0]:
            raise ArrieroError(f"position {tuple(position)} is outside its document in {reader.folder}")

    @property
    def position(self) -> StreamPosition:
        """The next token."""
        return StreamPosition(self._epoch, self._place, self._offset)

    def fill(self, row: NDArray[np.int64], targets: NDArray[np.int64], *, across: bool = False) -> list[Piece]:
        """Take the next tokens into `row` (T,), and what follows each into `targets` (T,).

        Args:
            row: is filled.
            targets: is filled; `IGNORED` at a document's last token, unless `across`.
            across: what follows a document's last token is the next document's first.

        Returns: where the documents lie.
        """
        pieces, filled, size = [], 0, len(row)
        while filled < size:
            index = self._place - self._first
            length = self._lengths[index]
            count = min(size - filled, length - self._offset)
            begin, end = self._offset, self._offset + count
            ids = self._ids(index, begin, min(end + 1, length))
            row[filled : filled + count] = ids[:count]
            targets[filled : filled + len(ids) - 1] = ids[1:]
            if end < length:
                self._offset = end
            else:
                self._go_to(index + 1)
                targets[filled + count - 1] = self._ids(self._place - self._first, 0, 1)[0] if across else IGNORED
            pieces.append(Piece(filled, filled + count))
            filled += count
        return pieces

    def skip(self, tokens: int) -> None:
        """Pass over the next tokens, as another rank's rows."""
        while tokens:
            index = self._place - self._first
            begin = int(self._ends[index]) - self._lengths[index] + self._offset
            passed = int(np.searchsorted(self._ends, begin + tokens, side="right"))
            if passed == index:
                self._offset += tokens
                return
            tokens -= int(self._ends[passed - 1]) - begin
            self._go_to(passed)

    def _go_to(self, index: int) -> None:
        """The next token is the first of a document, given by its number among those looked up."""
        self._place, self._offset = self._first + index, 0
        if self._place == len(self._reader):
            self._epoch, self._place = self._epoch + 1, 0
            self._load()
        elif index == len(self._lengths):
            self._load()

    def _load(self) -> None:
        """Look up the next documents of the epoch."""
        self._first = self._place
        places = np.arange(self._first, min(self._first + AHEAD, len(self._reader)))
        if self._shuffle:
            places = Permutation(len(self._reader), f"{self._key}/{self._epoch}").at(places)
        found: Places = self._reader.locate(places)
        self._ends: NDArray[np.int64] = np.cumsum(found.length)
        """Tokens of the documents looked up, up to the end of each."""
        self._shards, self._starts, self._lengths = (part.tolist() for part in found)

    def _ids(self, index: int, begin: int, end: int) -> Ids:
        start = self._starts[index]
        return self._reader.ids(self._shards[index], start + begin, end - begin)
