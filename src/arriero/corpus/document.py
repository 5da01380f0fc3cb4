"""A document on its way through a recipe, and what a step of a recipe is.

A recipe is a chain of pure functions from documents to documents. A document that a step refuses is not taken out of
the stream: it goes on with the reason, later steps leave it alone, and whoever writes the corpus counts it. So nothing
is ever lost in silence, and every step can be tried by itself:

    kept = [document for document in step(documents) if not document.dropped]
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

MAX_BYTES = 1 << 26
"""The longest document or record, 64 MiB: what is longer is dropped and never held whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text with where it comes from."""

    id: str
    """Unique in its corpus, and the same whatever the number of workers: the file's name, `#`, the place in it."""
    text: str
    """Raw (HTML, wikitext, LaTeX, …) as a reader gives it, clean as a recipe leaves it."""
    origin: str
    """The URL or path that a person would look it up by."""
    licence: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What JSON can hold: title, language, score, perplexity, …; only what is known."""
    dropped: str | None = None
    """Why it is no part of the corpus; None while it is."""

    def with_text(self, text: str) -> Self:
        """The document with another text."""
        return dataclasses.replace(self, text=text)

    def with_licence(self, licence: str) -> Self:
        """The document under a licence."""
        return dataclasses.replace(self, licence=licence)

    def with_metadata(self, **values: Any) -> Self:
        """The document with more metadata."""
        return dataclasses.replace(self, metadata={**self.metadata, **values})

    def drop(self, reason: str) -> Self:
        """The document, refused: the reason names the step and its rule (`c4: lorem ipsum`), never the content."""
        return dataclasses.replace(self, dropped=reason)


class Step(Protocol):
    """A part of a recipe: takes each document to one document, in order, and leaves dropped ones as they are."""

    @property
    def name(self) -> str:
        """What provenance and statistics call it."""
        ...

    def __call__(self, documents: Iterable[Document]) -> Iterator[Document]: ...


@dataclass(frozen=True)
class Each:
    """A step that looks at one document at a time. One that it fails on is dropped, and the others go on."""

    name: str
    change: Callable[[Document], Document]

    def __call__(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            yield document if document.dropped else self._guarded(document)

    def _guarded(self, document: Document) -> Document:
        try:
            return self.change(document)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            return document.drop(f"{self.name}: failed ({type(error).__name__})")


def chain(steps: Sequence[Step], documents: Iterable[Document]) -> Iterator[Document]:
    """The documents after all steps, one after the other."""
    for step in steps:
        documents = step(documents)
    return iter(documents)
