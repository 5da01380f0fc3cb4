"""Jupyter notebooks and JSON: the text in them, without the notation around it."""

import json
from collections.abc import Iterator
from typing import Any

from arriero.common.errors import FormatError
from arriero.parsers.document import Section
from arriero.parsers.encoding import decode
from arriero.parsers.limits import Budget, Parsed
from arriero.parsers.markdown import markdown_sections


def read_notebook(data: bytes, budget: Budget) -> Parsed:
    """Markdown cells' headings are sections; code cells stay under the heading above them; outputs are left out.

    Raises:
        FormatError: no Jupyter notebook.
    """
    text, encoding = decode(data)
    notebook = _load(text)
    if not isinstance(notebook, dict):
        raise FormatError("no Jupyter notebook: expected a JSON object")
    cells = notebook.get("cells")
    if cells is None:  # format 3 keeps them in worksheets
        sheets = notebook.get("worksheets")
        cells = [cell for sheet in sheets for cell in sheet.get("cells", [])] if isinstance(sheets, list) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise FormatError("no Jupyter notebook: it has no list of cells")
    sections: list[Section] = []
    for cell in cells:
        budget.cells(1)
        source = _source(cell)
        title = sections[-1].title if sections else None
        if cell.get("cell_type") in ("markdown", "heading"):
            sections += _titled(markdown_sections(source, budget), title)
        else:
            budget.characters(len(source))
            sections.append(Section(source, title=title))
    return Parsed(sections, {"encoding": encoding})


def read_json(data: bytes, budget: Budget) -> Parsed:
    """A line for each value, with the path to it: 'users[0].name: Ann'. JSON Lines: a paragraph for each record.

    Text that is no JSON (with comments, cut off) is taken as it stands.
    """
    text, encoding = decode(data)
    records = _records(text)
    if records is None:
        budget.characters(len(text))
        return Parsed([Section(text)], {"encoding": encoding})
    paragraphs = []
    for record in records:
        lines = []
        for line in _flatten(record, budget):
            budget.characters(len(line))
            lines.append(line)
        paragraphs.append("\n".join(lines))
    return Parsed([Section("\n\n".join(paragraphs))], {"encoding": encoding})


def _titled(sections: list[Section], above: str | None) -> list[Section]:
    """A cell that opens without a heading goes on under the one above."""
    return [Section(section.text, title=section.title or above) for section in sections]


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    if not isinstance(source, str):
        raise FormatError("no Jupyter notebook: a cell's source is no text")
    return "#" * int(cell.get("level", 1)) + " " + source if cell.get("cell_type") == "heading" else source


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise FormatError("JSON nested too deeply") from error
    except ValueError as error:
        raise FormatError(f"broken JSON ({error})") from error


def _records(text: str) -> list[Any] | None:
    """The one JSON value, or one a line; None when it is neither."""
    try:
        return [_load(text)]
    except FormatError as error:
        if isinstance(error.__cause__, RecursionError):
            raise
    try:
        return [_load(line) for line in text.split("\n") if line.strip()]
    except FormatError as error:
        if isinstance(error.__cause__, RecursionError):
            raise
        return None


def _flatten(record: Any, budget: Budget) -> Iterator[str]:
    stack: list[tuple[str, int, Any]] = [("", 0, record)]
    while stack:
        path, depth, value = stack.pop()
        budget.depth(depth)
        if isinstance(value, dict):
            stack += [(f"{path}.{key}" if path else key, depth + 1, item) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            stack += [(f"{path}[{number}]", depth + 1, value[number]) for number in reversed(range(len(value)))]
        else:
            shown = value if isinstance(value, str) else json.dumps(value)
            yield f"{path}: {shown}" if path else shown
