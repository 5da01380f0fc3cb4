"""Tables of a collection's SQLite file, and the check that a file has them."""

import sqlite3
from contextlib import closing
from pathlib import Path

from arriero.common.errors import FormatError
from arriero.common.files import atomic_file

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x41525249  # "ARRI": tells our files from other SQLite files

_SCHEMA = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (location BLOB PRIMARY KEY, kind TEXT NOT NULL, given TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    location BLOB UNIQUE,
    content_hash TEXT NOT NULL,
    chunking TEXT NOT NULL,
    characters INTEGER NOT NULL,
    added TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);
CREATE TABLE metadata (
    document_id INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    given INTEGER NOT NULL,
    PRIMARY KEY (document_id, key)
) WITHOUT ROWID;
CREATE INDEX metadata_by_value ON metadata (key, value);
CREATE TABLE passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    document_id INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    text TEXT NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    page INTEGER,
    page_end INTEGER,
    section TEXT,
    UNIQUE (document_id, ordinal)
);
CREATE TABLE vectors (passage_id INTEGER PRIMARY KEY REFERENCES passages ON DELETE CASCADE, vector BLOB NOT NULL);
CREATE VIRTUAL TABLE terms USING fts5 (text, tokenize = "unicode61 remove_diacritics 2");
CREATE TRIGGER forget_terms AFTER DELETE ON passages BEGIN DELETE FROM terms WHERE rowid = old.id; END;
INSERT INTO settings VALUES ('generation', '0');
"""


def create_file(path: Path) -> None:
    """Make an empty store in WAL mode; the file appears whole."""
    with atomic_file(path) as aside, closing(sqlite3.connect(aside, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def check_schema(db: sqlite3.Connection, path: Path) -> None:
    """Refuse what this version cannot read.

    Raises:
        FormatError: another program's file, or a newer schema.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if int(db.execute("PRAGMA application_id").fetchone()[0]) != _APPLICATION_ID:
        raise FormatError(f"{path} is no collection of arriero's")
    if version > SCHEMA_VERSION:
        raise FormatError(
            f"{path} has schema {version}, and this version reads {SCHEMA_VERSION}: pip install -U arriero"
        )
