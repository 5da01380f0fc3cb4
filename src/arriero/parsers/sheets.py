"""XLSX through openpyxl and CSV through the standard library: each row a line of text, under its column's heading.

A row far down a table means nothing without its columns' names. Where the first row is a heading (texts only, none
twice), the rows below read 'Name: Ann | Age: 31'; else the values stand alone.
"""

import csv
import datetime
import io
from collections.abc import Iterable, Iterator, Sequence

from arriero.common.errors import FormatError, require
from arriero.parsers.document import Section
from arriero.parsers.encoding import decode
from arriero.parsers.limits import Budget, Parsed
from arriero.parsers.office import core_properties

_DELIMITERS = ",;\t|"
_DIALECT_SAMPLE = 16_384
"""Characters from which a CSV file's delimiter is told."""


def read_xlsx(data: bytes, budget: Budget) -> Parsed:
    """One section a sheet, headed by its name. Values as last computed by the program that saved them, no formulas."""
    openpyxl = require("openpyxl", extra="rag", purpose="reading XLSX")
    workbook = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
    try:
        sections = []
        for sheet in workbook.worksheets:
            sheet.reset_dimensions()  # the stated size may be wrong, either way
            rows = ([_value_text(value) for value in row] for row in sheet.iter_rows(values_only=True))
            lines = list(_lines(rows, budget))
            if lines:
                sections.append(Section("\n".join([sheet.title, "", *lines]), title=sheet.title))
        return Parsed(sections, core_properties(workbook.properties, workbook.properties.creator))
    finally:
        workbook.close()


def read_csv(data: bytes, budget: Budget) -> Parsed:
    """One section of all rows; the delimiter is told from the first lines.

    Raises:
        FormatError: broken CSV.
    """
    text, encoding = decode(data)
    csv.field_size_limit(budget.limits.max_characters)
    try:
        dialect: type[csv.Dialect] = csv.Sniffer().sniff(text[:_DIALECT_SAMPLE], _DELIMITERS)
    except csv.Error:
        dialect = csv.excel
    try:
        lines = list(_lines(csv.reader(io.StringIO(text, newline=""), dialect), budget))
    except csv.Error as error:
        raise FormatError(f"broken CSV ({error})") from error
    return Parsed([Section("\n".join(lines))], {"encoding": encoding})


def _lines(rows: Iterable[Sequence[str]], budget: Budget) -> Iterator[str]:
    heading: list[str] | None = None
    first = True
    for row in rows:
        budget.cells(max(1, len(row)))
        cells = [" ".join(cell.split()) for cell in row]
        if not any(cells):
            continue
        line = " | ".join(filter(None, cells)) if first or heading is None else _labelled(heading, cells)
        if first and _is_heading(cells):
            heading = cells
        first = False
        budget.characters(len(line))
        yield line


def _is_heading(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell]
    texts = all(any(character.isalpha() for character in cell) and len(cell) <= 60 for cell in filled)
    return len(filled) >= 2 and texts and len(set(filled)) == len(filled)


def _labelled(heading: Sequence[str], cells: Sequence[str]) -> str:
    labels = list(heading) + [""] * (len(cells) - len(heading))
    return " | ".join(f"{label}: {cell}" if label else cell for label, cell in zip(labels, cells, strict=False) if cell)


def _value_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return repr(round(value, 12)) if not value.is_integer() or abs(value) >= 1e15 else str(int(value))
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight else value.isoformat(sep=" ", timespec="seconds")
    return str(value)
