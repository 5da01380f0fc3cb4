"""Rows that are costly to make, written down a portion at a time, so that a killed run goes on behind the last one.

A portion is made whole or again: what is sampled together comes out the same, whether or not it was interrupted.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from arriero.common.errors import FormatError
from arriero.common.files import atomic_file
from arriero.common.progress import progress

Row = dict[str, Any]


def fill(
    path: Path, count: int, portion: int, make: Callable[[range], Sequence[Row]], *, doing: str, unit: str
) -> list[Row]:
    """Rows 0 … count − 1: those that the file has, and the others, made and appended.

    Args:
        path: JSON lines, one a row.
        count: of all rows.
        portion: of rows that are made together.
        make: the rows of these numbers.
        doing: what the progress bar says.
        unit: what it counts.

    Raises:
        FormatError: a line that no kill cut off is damaged, or there are more lines than rows.
    """
    rows = _read(path, count, portion)
    with progress(doing, count, unit) as advance:
        advance(len(rows))
        for start in range(len(rows), count, portion):
            made = list(make(range(start, min(start + portion, count))))
            _append(path, made)
            rows += made
            advance(len(made))
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A whole file of JSON lines."""
    with atomic_file(path) as aside:
        aside.write_text("".join(map(_line, rows)), encoding="utf-8")


def _read(path: Path, count: int, portion: int) -> list[Row]:
    """The rows of whole portions; what a kill left behind them is cut off the file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # the last may be cut
    rows = [_parse(line, path, number) for number, line in enumerate(lines, start=1)]
    if len(rows) > count:
        raise FormatError(f"{path}: expected at most {count} rows, got {len(rows)}: choose another folder")
    if len(rows) < count:
        rows = rows[: len(rows) - len(rows) % portion]
    write_rows(path, rows)
    return rows


def _parse(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise FormatError(f"{path}, line {number}: damaged; remove it and all lines behind it to go on")
    return row


def _append(path: Path, rows: Sequence[Row]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(map(_line, rows))
        file.flush()
        os.fsync(file.fileno())


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
