"""What parsing makes of a file. Offsets into `Document.text` count characters (code points), never bytes."""

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
    """A parsed file. The sections' texts are clean (see `arriero.parsers.parse`) and none is empty."""

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
