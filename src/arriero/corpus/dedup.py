"""Deduplication as a part of a recipe: what each piece of a corpus collects, what all together decide, what goes.

A verdict depends on the documents alone: not on how many pieces they lie in, nor on the order of these. It names
documents by their ids and passages by their hashes, never by position.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from arriero.corpus.document import Document, Step


class Collector(Protocol):
    """Gathers what a corpus-wide step must know of one piece's documents."""

    def add(self, document: Document) -> None:
        """Take in one document."""
        ...

    def save(self, path: Path) -> None:
        """Write it all to a file."""
        ...


@runtime_checkable
class CorpusStep(Protocol):
    """A part of a recipe that looks at all documents at once."""

    @property
    def name(self) -> str:
        """What provenance and statistics call it."""
        ...

    def collector(self) -> Collector:
        """A new one, for one piece."""
        ...

    def resolve(self, parts: Sequence[Path], verdict: Path) -> None:
        """Decide what goes, from the files of all collectors, and write it down; in bounded memory."""
        ...

    def step(self, verdict: Path) -> Step:
        """The step that removes it."""
        ...
