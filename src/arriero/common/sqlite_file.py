"""SQLite files of ours: made whole, in WAL mode, and told from other programs' files and from newer versions."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from arriero.common.errors import BusyError, FormatError, StorageError
from arriero.common.files import atomic_file

_MAGIC = b"SQLite format 3\0"


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
        """Make an empty file; it appears whole, and never in the place of one that another process just made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(path.parent):
            if path.is_file():
                return
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


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's own lock, which leaves no file behind."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_sqlite(path: Path) -> bool:
    """Whether a file is one of SQLite's, whoever wrote it."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@contextmanager
def readable_errors(path: Path, what: str) -> Iterator[None]:
    """What the user can mend, in a line; what is a defect of ours stays as it is.

    Args:
        what: what an error calls the file.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if (mending := _mend(str(error))) is None:
            raise
        kind = BusyError if "locked" in str(error) else StorageError
        raise kind(f"{what}: {mending}") from error
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.DatabaseError as error:
        raise FormatError(f"{path} is damaged or no SQLite file ({error})") from error


def _mend(reason: str) -> str | None:
    """SQLite's reason with what to do about it, where that is the user's to do."""
    if "full" in reason:
        return "the disk is full; what was stored before is unharmed: free some space, then run the same command again"
    if "locked" in reason:
        return "another process has been writing to it all the while: try again when that one has finished"
    if "readonly" in reason or "unable to open" in reason:
        return f"no permission to write there ({reason})"
    if "disk I/O" in reason:
        return f"the disk fails ({reason}): look at its health, and at the space that is left"
    if "fts5" in reason:
        return "this Python's SQLite has no full-text search (FTS5): take another build of Python"
    return None
