"""Pieces: some neighbouring documents of one input, taken through steps, and written down with their account.

An input is cut by its documents' own sizes, so that the cuts are the same whoever makes them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from arriero.common.files import atomic_file
from arriero.corpus.dedup import Collector
from arriero.corpus.document import Document, Step, chain
from arriero.corpus.ledger import Ledger, rank
from arriero.corpus.rows import RowFormat, from_row, read_rows, to_row, write_rows

PIECE_BYTES, PIECE_DOCUMENTS = 1 << 24, 10_000
"""A piece ends at the first of both: 16 MiB of raw text."""
SHOWN = 3
"""Documents of a piece of which the raw text is kept up to the end, to show what cleaning did."""
BETWEEN: RowFormat = "jsonl.zst"
"""The form of documents between two stages."""

Raw = tuple[Document, str]
"""A document, and its text before cleaning if that is to be shown."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def cut(documents: Iterable[Document]) -> Iterator[list[Raw]]:
    """Pieces of neighbouring documents; the raw text of those first in rank is kept beside them."""
    piece: list[Document] = []
    size = 0
    for document in documents:
        piece.append(document)
        size += len(document.text)
        if size >= PIECE_BYTES or len(piece) >= PIECE_DOCUMENTS:
            yield _shown(piece)
            piece, size = [], 0
    if piece:
        yield _shown(piece)


def _shown(piece: Sequence[Document]) -> list[Raw]:
    ranks = [rank(document.id) for document in piece]
    shown = sorted(r for r, document in zip(ranks, piece, strict=True) if not document.dropped)[:SHOWN]
    return [(document, document.text if r in shown else "") for r, document in zip(ranks, piece, strict=True)]


class Piece:
    """Where one piece of one phase lies."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.account = folder / f"{name}.ledger.json"
        """Written last: the piece is done when it is there."""
        self.documents = folder / f"{name}.{BETWEEN}"
        self.keys = folder / f"{name}.keys"
        """What a corpus-wide step collected."""
        self.position = folder / f"{name}.position"
        """Bytes of the input that were read by then."""

    def write(
        self, raw: Sequence[Raw], steps: Sequence[Step], collector: Collector, source: str, *, first: bool
    ) -> None:
        """Take documents through the steps, into a file between two stages, with what the collector gathers."""
        ledger, rows = Ledger(), []
        for document, before in passed(raw, steps, ledger, first=first):
            collector.add(document)
            rows.append(to_row(document, source, ()) | {"before": before})
        with atomic_file(self.keys) as aside:
            collector.save(aside)
        write_rows(self.documents, rows, BETWEEN)
        ledger.save(self.account)

    def write_last(
        self, raw: Sequence[Raw], steps: Sequence[Step], recipe: Sequence[str], out: Path, source: str, kind: RowFormat,
        *, first: bool,
    ) -> None:  # fmt: skip
        """Take documents through the last steps, into a file of the corpus; none if nothing is left.

        Args:
            recipe: names of all steps that they passed.
        """
        ledger, rows = Ledger(), []
        for document, before in passed(raw, steps, ledger, first=first):
            ledger.keep(document, before)
            rows.append(to_row(document, source, recipe))
        if rows:
            write_rows(out / f"{self.name}.{kind}", rows, kind)
        ledger.save(self.account)

    def read(self) -> list[Raw]:
        """The documents that `write` left."""
        return [(from_row(row), row["before"]) for row in read_rows(self.documents)]


def passed(raw: Sequence[Raw], steps: Sequence[Step], ledger: Ledger, *, first: bool) -> Iterator[Raw]:
    """The documents that pass all steps; the others, with what they were read as, go into the ledger.

    Args:
        first: these are fresh from the input, and count as read.
    """
    for (given, before), document in zip(raw, chain(steps, (document for document, _ in raw)), strict=True):
        assert given.id == document.id, "a step gives each document back, in order"
        size = len(given.text.encode("utf-8", "surrogatepass"))
        if first:
            ledger.read.add(size)
        document = _writable(document)
        if document.dropped:
            ledger.drop(document, size)
        else:
            yield document, before


def _writable(document: Document) -> Document:
    if document.dropped:
        return document
    if not document.text.strip():
        return document.drop("empty after cleaning")
    if any(map(_SURROGATE.search, (document.text, document.origin, document.id))):
        return document.drop("utf-8: half of a surrogate pair")
    return document
