"""Tables of a collection's SQLite file."""

from arriero.common.sqlite_file import FileKind

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

COLLECTION = FileKind(what="collection of arriero's", application_id=0x41525249, version=1, schema=_SCHEMA)  # "ARRI"
