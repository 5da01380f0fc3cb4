"""DOCX through python-docx: paragraphs, lists, tables, content controls, text boxes and footnotes, by heading."""

import io
import re
from collections.abc import Iterator
from typing import Any

from arriero.common.errors import require
from arriero.parsers.document import Section
from arriero.parsers.headings import Headings
from arriero.parsers.limits import Budget, Parsed
from arriero.parsers.office import core_properties, paragraph_text

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_HEADING = re.compile(r"heading (\d)$", re.IGNORECASE)
_NOTES = re.compile(r"/(footnotes|endnotes)\.xml$")


def read_docx(data: bytes, budget: Budget) -> Parsed:
    """Sections by heading path; each begins with its heading. Word stores no pages, so there are none."""
    docx = require("docx", extra="rag", purpose="reading DOCX")
    document = docx.Document(io.BytesIO(data))
    styles = _heading_levels(document.styles)
    sections: list[Section] = []
    headings = Headings()
    lines: list[str] = []
    for level, text in _blocks(document.element.body, styles, budget, 0):
        budget.characters(len(text))
        if level is not None:
            sections.append(Section("\n".join(lines), title=headings.path))
            lines.clear()
            headings.enter(level, text)
        lines.append(text if level is None else text + "\n")
    sections.append(Section("\n".join(lines), title=headings.path))
    sections += _notes(document.part.package, budget)
    properties = document.core_properties
    return Parsed(sections, core_properties(properties, properties.author))


def _heading_levels(styles: Any) -> dict[str, int]:
    """Style id → heading level; a style based on a heading is one. 'Title' stands above all."""
    levels: dict[str, int] = {}
    for style in styles:
        ancestor, steps = style, 0
        while ancestor is not None and steps < 10:
            name = ancestor.name or ""
            if found := _HEADING.match(name):
                levels[style.style_id] = int(found[1])
            elif name.lower() == "title":
                levels[style.style_id] = 0
            if style.style_id in levels:
                break
            ancestor, steps = getattr(ancestor, "base_style", None), steps + 1
    return levels


def _blocks(parent: Any, styles: dict[str, int], budget: Budget, depth: int) -> Iterator[tuple[int | None, str]]:
    """(heading level or None, text) of each paragraph and table row below `parent`, in reading order."""
    budget.depth(depth)
    for child in parent.iterchildren():
        tag = child.tag
        if tag == f"{_WORD}p":
            yield from _paragraph(child, styles, budget, depth)
        elif tag == f"{_WORD}tbl":
            for row in child.iterchildren(f"{_WORD}tr"):
                cells = [_cell(cell, styles, budget, depth) for cell in row.iter(f"{_WORD}tc") if _owner(cell) is row]
                budget.cells(len(cells))
                if any(cells):
                    yield None, " | ".join(cells).strip(" |")
            yield None, ""
        elif tag in (f"{_WORD}sdt", f"{_WORD}sdtContent", f"{_WORD}ins", f"{_WORD}moveTo", f"{_WORD}customXml"):
            yield from _blocks(child, styles, budget, depth + 1)


def _paragraph(element: Any, styles: dict[str, int], budget: Budget, depth: int) -> Iterator[tuple[int | None, str]]:
    properties = element.find(f"{_WORD}pPr")
    style = properties.find(f"{_WORD}pStyle") if properties is not None else None
    numbered = properties is not None and properties.find(f"{_WORD}numPr") is not None
    level = styles.get(style.get(f"{_WORD}val")) if style is not None else None
    text = paragraph_text(element).strip()
    if text:
        listed = level is None and (numbered or (style is not None and "List" in (style.get(f"{_WORD}val") or "")))
        yield level, f"- {text}" if listed else text
    elif level is None:
        yield None, ""
    for box in element.iter(f"{_WORD}txbxContent"):
        if not any(ancestor.tag == _FALLBACK for ancestor in box.iterancestors()):
            yield from _blocks(box, styles, budget, depth + 1)


def _owner(cell: Any) -> Any:
    """The row that a cell belongs to: rows of tables within it are not its siblings."""
    return next(cell.iterancestors(f"{_WORD}tr"))


def _cell(cell: Any, styles: dict[str, int], budget: Budget, depth: int) -> str:
    texts = (text for _, text in _blocks(cell, styles, budget, depth + 1))
    return " ".join(" ".join(texts).split())


def _notes(package: Any, budget: Budget) -> Iterator[Section]:
    etree = require("lxml.etree", extra="rag", purpose="reading DOCX")
    for part in package.iter_parts():
        if found := _NOTES.search(str(part.partname)):
            parser = etree.XMLParser(resolve_entities=False, no_network=True)
            root = etree.fromstring(part.blob, parser)
            texts = [paragraph_text(paragraph).strip() for paragraph in root.iter(f"{_WORD}p")]
            budget.characters(sum(map(len, texts)))
            yield Section("\n".join(filter(None, texts)), title=found[1].capitalize())
