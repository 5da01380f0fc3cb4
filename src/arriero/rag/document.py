"""What parsing makes of a file (`Document`) and what chunking makes of a document (`Passage`).

Every offset is a count of characters (Python's, i.e. code points) into `Document.text`, never of bytes.
"""

from dataclasses import dataclass, field
from functools import cached_property

SECTION_BREAK = "\n\n"
"""What `Document.text` puts between two sections."""


@dataclass(frozen=True)
class Section:
    """A piece of a document that has one page or one heading; a longer chapter is one section a page."""

    text: str
    """Its words, the heading as its first line where the file shows one."""
    page: int | None = None
    """Page or slide, counted from 1; None where the format has none."""
    title: str | None = None
    """Heading path, outermost first, joined by ' > '; None where there is no heading."""


@dataclass(frozen=True)
class Document:
    """A parsed file. The sections' texts are clean (see `arriero.rag.parse`) and none is empty."""

    name: str
    """What the document is called in citations: usually the file's name."""
    sections: tuple[Section, ...]
    """In reading order."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What the file says of itself: `title`, `author`, `date`, `language`, `format`, ... only those it has."""

    @cached_property
    def text(self) -> str:
        """The whole text: the sections joined by a blank line."""
        return SECTION_BREAK.join(section.text for section in self.sections)

    @cached_property
    def section_starts(self) -> tuple[int, ...]:
        """The offset in `text` at which each section begins."""
        starts, at = [], 0
        for section in self.sections:
            starts.append(at)
            at += len(section.text) + len(SECTION_BREAK)
        return tuple(starts)


@dataclass(frozen=True)
class Passage:
    """A cut of a document, `text == document.text[start:end]`: what is encoded, found and cited."""

    text: str
    document: str
    """The document's name."""
    start: int
    """First character's offset in the document's text."""
    end: int
    """Offset after the last character."""
    page: int | None
    """Page of the first character, from 1."""
    page_end: int | None
    """Page of the last character."""
    section: str | None
    """Heading path of the section that most of the passage lies in; None where that has none."""
    ordinal: int
    """Position among the document's passages, from 0."""

    @property
    def place(self) -> str:
        """'report.pdf, pages 3-4, Results': where a reader finds it."""
        return describe_place(self.document, self.page, self.page_end, self.section)


def describe_place(document: str, page: int | None, page_end: int | None, section: str | None) -> str:
    """Document, page or pages, and section, as far as they are known."""
    pages = "" if page is None else f"page {page}" if page_end in (None, page) else f"pages {page}-{page_end}"
    return ", ".join(part for part in (document, pages, section) if part)
