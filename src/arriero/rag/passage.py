"""What chunking makes of a document. Offsets count characters (Python's, i.e. code points), never bytes."""

from dataclasses import dataclass


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
