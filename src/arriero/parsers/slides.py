"""PPTX through python-pptx: a slide is a page, its title the section; tables, groups and speaker notes too."""

import io
from collections.abc import Iterator
from typing import Any

from arriero.common.errors import require
from arriero.parsers.document import Section
from arriero.parsers.limits import Budget, Parsed
from arriero.parsers.office import core_properties


def read_pptx(data: bytes, budget: Budget) -> Parsed:
    """One section a slide (page from 1), and one more of the same page for its notes."""
    pptx = require("pptx", extra="rag", purpose="reading PPTX")
    presentation = pptx.Presentation(io.BytesIO(data))
    budget.pages(len(presentation.slides))
    sections = []
    for number, slide in enumerate(presentation.slides, start=1):
        title_shape = slide.shapes.title
        title = " ".join(title_shape.text_frame.text.split()) if title_shape is not None else ""
        text = "\n".join(_shape_texts(slide.shapes, budget, 0))
        sections.append(Section(text, page=number, title=title or None))
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            notes = slide.notes_slide.notes_text_frame.text
            budget.characters(len(notes))
            sections.append(Section(notes, page=number, title=f"{title} > Notes" if title else "Notes"))
    properties = presentation.core_properties
    return Parsed(sections, core_properties(properties, properties.author) | {"pages": str(len(presentation.slides))})


def _shape_texts(shapes: Any, budget: Budget, depth: int) -> Iterator[str]:
    budget.depth(depth)
    for shape in shapes:
        text = ""
        if shape.has_text_frame:
            text = shape.text_frame.text
        elif getattr(shape, "has_table", False):
            text = "\n".join(_rows(shape.table, budget))
        elif hasattr(shape, "shapes"):  # a group
            yield from _shape_texts(shape.shapes, budget, depth + 1)
        budget.characters(len(text))
        if text.strip():
            yield text


def _rows(table: Any, budget: Budget) -> Iterator[str]:
    for row in table.rows:
        cells = [" ".join(cell.text_frame.text.split()) for cell in row.cells]
        budget.cells(len(cells))
        yield " | ".join(cells)
