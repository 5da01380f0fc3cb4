"""What bounds the parsing of one file, and the account that a parser keeps against it.

Time is bounded twice. `Budget.check` is called between pages, rows, members and sections, so a file that is merely
large stops within one such step of `max_seconds`. A single call into a C library (one hostile PDF page, one XML part)
cannot be interrupted from inside the process: `arriero.parsers.isolation` runs parsers in a child that it can kill.
"""

import time
from dataclasses import dataclass, field

from arriero.common.errors import ArrieroError, FormatError
from arriero.parsers.document import Section


@dataclass(frozen=True, kw_only=True)
class ParseLimits:
    """How large, deep and slow one file may be; a file over a limit is refused, never cut silently."""

    max_bytes: int = 256 * 1024**2
    """Size of the file on disk, in bytes."""
    max_unpacked: int = 512 * 1024**2
    """Size of an Office file's members when unpacked, in bytes, all together."""
    max_ratio: int = 200
    """Unpacked size over packed size of an Office file; counts only above 16 MiB unpacked."""
    max_members: int = 20_000
    """Members of an Office file's archive."""
    max_pages: int = 20_000
    """Pages of a PDF, slides of a presentation."""
    max_cells: int = 5_000_000
    """Cells of a workbook, a CSV file or a notebook, empty ones in between included."""
    max_characters: int = 100_000_000
    """Characters of text that a file may give."""
    max_depth: int = 256
    """Levels of nesting in HTML and JSON, tables within tables in Office files. libxml2 itself stops at 256."""
    max_memory: int = 8 * 1024**3
    """Address space of the process in `arriero.parsers.isolation`, in bytes (Linux); unbounded when in process."""
    max_seconds: float = 120.0
    """Time for one file, in seconds; see the file's docstring for how it is kept."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ArrieroError(f"{name} must be positive, not {value}")


@dataclass
class Parsed:
    """What a parser gives: sections as they came (not yet cleaned) and the file's own metadata."""

    sections: list[Section]
    metadata: dict[str, str] = field(default_factory=dict)


class Budget:
    """The account of one file against the limits; each method raises `FormatError` when its limit is passed."""

    def __init__(self, limits: ParseLimits) -> None:
        self.limits = limits
        self._deadline = time.monotonic() + limits.max_seconds
        self._characters = 0
        self._cells = 0

    def check(self) -> None:
        """Time."""
        if time.monotonic() > self._deadline:
            raise FormatError(f"takes longer than {self.limits.max_seconds:g} s to parse (limit max_seconds)")

    def characters(self, count: int) -> None:
        """Count extracted characters."""
        self._characters += count
        if self._characters > self.limits.max_characters:
            raise FormatError(f"more than {self.limits.max_characters:,} characters of text (limit max_characters)")
        self.check()

    def cells(self, count: int) -> None:
        """Count table cells."""
        self._cells += count
        if self._cells > self.limits.max_cells:
            raise FormatError(f"more than {self.limits.max_cells:,} cells (limit max_cells)")
        self.check()

    def pages(self, total: int) -> None:
        """Refuse a file of so many pages."""
        if total > self.limits.max_pages:
            raise FormatError(f"{total:,} pages, more than {self.limits.max_pages:,} (limit max_pages)")

    def depth(self, level: int) -> None:
        """Refuse nesting so deep."""
        if level > self.limits.max_depth:
            raise FormatError(f"nested deeper than {self.limits.max_depth} levels (limit max_depth)")
