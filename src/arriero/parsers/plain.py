"""Plain text (a form feed ends a page, as in RFCs) and reStructuredText (underlined titles are headings)."""

import re

from arriero.parsers.document import Section
from arriero.parsers.encoding import decode
from arriero.parsers.headings import Headings
from arriero.parsers.limits import Budget, Parsed

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1+$")
_MIN_SHORT_TITLE = 4
"""Below this length an underline must be as long as its title exactly, so that '--' under a word is no heading."""


def read_text(data: bytes, budget: Budget) -> Parsed:
    """One section, or one a page where form feeds divide the text."""
    text, encoding = decode(data)
    budget.characters(len(text))
    pages = text.split("\f")
    if len(pages) == 1:
        return Parsed([Section(text)], {"encoding": encoding})
    budget.pages(len(pages))
    sections = [Section(page, page=number) for number, page in enumerate(pages, start=1)]
    return Parsed(sections, {"encoding": encoding})


def read_rst(data: bytes, budget: Budget) -> Parsed:
    """Sections by heading path; each begins with its heading, without the underline."""
    text, encoding = decode(data)
    budget.characters(len(text))
    sections = rst_sections(text)
    metadata = {"encoding": encoding}
    if title := next((section.title for section in sections if section.title), None):
        metadata["title"] = title
    return Parsed(sections, metadata)


def rst_sections(text: str) -> list[Section]:
    """The sections of a reStructuredText; a title style's level is the order in which the styles first appear."""
    lines = text.splitlines()
    sections: list[Section] = []
    headings = Headings()
    styles: list[str] = []
    body: list[str] = []
    at = 0
    while at < len(lines):
        style, title, taken = _title_at(lines, at)
        if not style:
            body.append(lines[at])
            at += 1
            continue
        sections.append(Section("\n".join(body), title=headings.path))
        body = [title, ""]
        if style not in styles:
            styles.append(style)
        headings.enter(styles.index(style), title)
        at += taken
    sections.append(Section("\n".join(body), title=headings.path))
    return sections


def _title_at(lines: list[str], at: int) -> tuple[str, str, int]:
    """(style, title, lines taken) when a title begins at line `at`, else a style of ''."""
    line = lines[at].rstrip()
    after = lines[at + 1].rstrip() if at + 1 < len(lines) else ""
    if _ADORNMENT.match(line) and at + 2 < len(lines) and lines[at + 2].rstrip() == line:
        title = after.strip()
        if title and len(line) >= len(title) and not _ADORNMENT.match(title):
            return line[0] * 2, title, 3
    before = lines[at - 1].strip() if at else ""
    if line and not line[0].isspace() and not before and not _ADORNMENT.match(line) and _ADORNMENT.match(after):
        wide_enough = len(after) >= len(line) if len(line) >= _MIN_SHORT_TITLE else len(after) == len(line)
        if wide_enough:
            return after[0], line, 2
    return "", "", 0
