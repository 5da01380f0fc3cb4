"""SQLite files of ours: made whole, in WAL mode, and told from other programs' files and from newer versions."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from arriero.common.errors import FormatError
from arriero.common.files import atomic_file


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """One kind of file: its tables, and how it is known."""

    what: str
    """What a file is, in the error about one that is something else."""
    application_id: int
    """In the file's header: tells ours from other SQLite files."""
    version: int
    """Of the tables."""
    schema: str
    """Statements that make the tables."""

    def create(self, path: Path) -> None:
        """Make an empty file; it appears whole."""
        with atomic_file(path) as aside, closing(sqlite3.connect(aside, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(f"BEGIN; {self.schema} COMMIT;")
            db.execute(f"PRAGMA application_id = {self.application_id}")
            db.execute(f"PRAGMA user_version = {self.version}")

    def check(self, db: sqlite3.Connection, path: Path) -> None:
        """Refuse what this version cannot read.

        Raises:
            FormatError: another program's file, or newer tables.
        """
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if int(db.execute("PRAGMA application_id").fetchone()[0]) != self.application_id:
            raise FormatError(f"{path} is no {self.what}")
        if version > self.version:
            raise FormatError(
                f"{path} has schema {version}, and this version reads {self.version}: pip install -U arriero"
            )
