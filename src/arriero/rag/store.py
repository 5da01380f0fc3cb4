"""The truth of a collection: one SQLite file with documents, passages, fp32 vectors, metadata and the BM25 index.

Everything of one document changes in one transaction, and every change raises the store's generation, by which a
derived index knows that it is stale. Passage ids are never used twice (AUTOINCREMENT), so an id that an index still
holds after a deletion finds nothing rather than another text. Locations of files are relative to the collection's
folder.
"""
# ruff: noqa: S608  (queries are put together from constants of this file only; every value is bound)

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arriero.common.errors import ArrieroError, NotFoundError, did_you_mean
from arriero.common.sqlite_file import readable_errors
from arriero.rag.contracts import Ids, Vectors
from arriero.rag.passage import Passage
from arriero.rag.schema import COLLECTION
from arriero.rag.terms import index_text, match_expression

FILE_NAME = "store.sqlite"
_BUSY_SECONDS = 30.0
_BLOCK = 4096  # rows read at once where all vectors pass by
_PASSAGE_COLUMNS = 'p.text, d.name, p.start, p."end", p.page, p.page_end, p.section, p.ordinal'


@dataclass(frozen=True, kw_only=True)
class DocumentInfo:
    """What a collection knows of a document."""

    name: str
    location: bytes | None
    """The file's path from the collection's folder, in the file system's bytes; None for text that was no file."""
    content_hash: str
    chunking: str
    characters: int
    passages: int
    pages: int | None
    """The last page with text; None where the format has none."""
    added: str
    """UTC, ISO 8601."""
    metadata: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class DocumentRow:
    """A document on its way into the store."""

    name: str
    location: bytes | None
    content_hash: str
    chunking: str
    characters: int
    metadata: Mapping[str, str]
    """What the file says of itself."""
    given: Mapping[str, str]
    """What the user says of it, which wins."""


class Store:
    """An open store; safe to share among threads of one process."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise NotFoundError(f"no collection in {path.parent}: `arriero rag add` makes one")
        self.path = path
        self._lock = threading.RLock()
        with _readable_errors(self.path):
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                COLLECTION.check(self._db, path)
                self._db.execute("PRAGMA foreign_keys = ON")
                self._db.execute("PRAGMA synchronous = FULL")
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def create(cls, path: Path) -> "Store":
        """Make an empty store; the file appears whole. The caller sees to it that no other process does the same."""
        with _readable_errors(path):
            COLLECTION.create(path)
        return cls(path)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._db.close()

    @contextmanager
    def write(self) -> Iterator[None]:
        """One transaction: all of the block or nothing.

        Raises:
            ArrieroError: the disk is full, or another process kept the file busy.
        """
        with self._lock:
            if self._db.in_transaction:  # a block inside a block belongs to the outer one
                yield
                return
            with _readable_errors(self.path):
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    self._roll_back()
                    raise

    @contextmanager
    def read(self) -> Iterator[None]:
        """One view of the store for several questions: what other processes write meanwhile stays out of it."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            with _readable_errors(self.path):
                self._db.execute("BEGIN")
                try:
                    yield
                finally:
                    self._roll_back()

    @property
    def generation(self) -> int:
        """A count of the changes made so far."""
        return int(self.setting("generation") or 0)

    def setting(self, key: str) -> str | None:
        """A stored setting (the encoder's fingerprint, how texts are cut, …)."""
        rows = self._read("SELECT value FROM settings WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def set_settings(self, **values: str) -> None:
        """Store settings, inside or outside a transaction of the caller's."""
        with self.write():
            self._db.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", values.items())

    def sources(self) -> dict[bytes, tuple[str, dict[str, str]]]:
        """Location of each source → its kind (`folder`, `file`, `excluded`) and the metadata given with it."""
        rows = self._read("SELECT location, kind, given FROM sources ORDER BY location")
        return {bytes(location): (str(kind), json.loads(given)) for location, kind, given in rows}

    def set_source(self, location: bytes, kind: str | None, given: Mapping[str, str] | None = None) -> None:
        """Remember a source, or forget it (`kind` None)."""
        with self.write():
            if kind is None:
                self._db.execute("DELETE FROM sources WHERE location = ?", (location,))
            else:
                row = (location, kind, json.dumps(dict(given or {})))
                self._db.execute("INSERT OR REPLACE INTO sources VALUES (?, ?, ?)", row)

    def documents(self) -> list[DocumentInfo]:
        """All documents, by name."""
        metadata: dict[int, dict[str, str]] = {}
        for document, key, value in self._read("SELECT document_id, key, value FROM metadata"):
            metadata.setdefault(document, {})[key] = value
        rows = self._read(
            "SELECT id, name, location, content_hash, chunking, characters, added, "
            "(SELECT count(*) FROM passages WHERE document_id = documents.id), "
            "(SELECT page_end FROM passages WHERE document_id = documents.id ORDER BY ordinal DESC LIMIT 1) "
            "FROM documents ORDER BY name"
        )
        return [
            DocumentInfo(
                name=name,
                location=location,
                content_hash=content_hash,
                chunking=chunking,
                characters=characters,
                passages=passages,
                pages=pages,
                added=added,
                metadata=metadata.get(document, {}),
            )
            for document, name, location, content_hash, chunking, characters, added, passages, pages in rows
        ]

    def document_id(self, name: str) -> int | None:
        """The row of a document, if it is there."""
        rows = self._read("SELECT id FROM documents WHERE name = ?", (name,))
        return int(rows[0][0]) if rows else None

    def replace(self, row: DocumentRow, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Put a document in place of the one with its name, with all its passages, in one transaction."""
        assert len(passages) == len(vectors)
        assert vectors.dtype == np.float32
        with self.write():
            document = self.document_id(row.name)
            values = (row.location, row.content_hash, row.chunking, row.characters)
            if document is None:
                columns = "name, location, content_hash, chunking, characters"
                cursor = self._db.execute(
                    f"INSERT INTO documents ({columns}) VALUES (?, ?, ?, ?, ?)", (row.name, *values)
                )
                assert cursor.lastrowid is not None
                document = cursor.lastrowid
            else:
                assignments = "location = ?, content_hash = ?, chunking = ?, characters = ?"
                self._db.execute(f"UPDATE documents SET {assignments} WHERE id = ?", (*values, document))
                self._db.execute("DELETE FROM passages WHERE document_id = ?", (document,))
            self._put_metadata(document, row.metadata, given=False)
            self._put_metadata(document, row.given, given=True)
            for passage, vector in zip(passages, vectors, strict=True):
                self._put_passage(document, passage, vector)
            self._raise_generation()

    def replace_vectors(self, ids: Ids, vectors: Vectors, **settings: str) -> None:
        """Give all passages other vectors, with the settings that go with them, in one transaction.

        Args:
            ids: (N,) of every passage that there is.
            vectors: (N, dim) fp32.
            settings: of the encoder that they come from.
        """
        with self.write():
            assert len(ids) == self.passage_count()
            rows = ((vector.astype("<f4").tobytes(), int(number)) for number, vector in zip(ids, vectors, strict=True))
            self._db.executemany("UPDATE vectors SET vector = ? WHERE passage_id = ?", rows)
            self.set_settings(**settings)
            self._raise_generation()

    def set_given(self, name: str, given: Mapping[str, str]) -> None:
        """Add the user's metadata to a document whose content stays."""
        with self.write():
            document = self.document_id(name)
            assert document is not None
            self._put_metadata(document, given, given=True)

    def delete(self, names: Iterable[str]) -> None:
        """Remove documents with all that belongs to them, in one transaction."""
        with self.write():
            self._db.executemany("DELETE FROM documents WHERE name = ?", [(name,) for name in names])
            self._raise_generation()

    def known_vectors(self, name: str) -> dict[str, Vectors]:
        """Text → vector of a document's passages, so that what a change left alone is not encoded again."""
        rows = self._read(
            "SELECT p.text, v.vector FROM passages p JOIN vectors v ON v.passage_id = p.id "
            "JOIN documents d ON d.id = p.document_id WHERE d.name = ?",
            (name,),
        )
        return {text: _vector(blob) for text, blob in rows}

    def passages(self, ids: Sequence[int]) -> dict[int, tuple[Passage, Vectors, dict[str, str]]]:
        """Passage, vector and metadata by id; an id that is gone is left out."""
        listed = json.dumps([int(number) for number in ids])
        rows = self._read(
            f"SELECT p.id, d.id, v.vector, {_PASSAGE_COLUMNS} FROM passages p JOIN documents d ON d.id = p.document_id "
            "JOIN vectors v ON v.passage_id = p.id WHERE p.id IN (SELECT value FROM json_each(?))",
            (listed,),
        )
        metadata: dict[int, dict[str, str]] = {document: {} for _, document, *_ in rows}
        for document, key, value in self._read(
            "SELECT document_id, key, value FROM metadata WHERE document_id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(metadata)),),
        ):
            metadata[document][key] = value
        return {number: (Passage(*cut), _vector(blob), metadata[document]) for number, document, blob, *cut in rows}

    def each_passage(self) -> Iterator[tuple[int, Passage, Vectors]]:
        """Every passage with its id and vector, ids ascending, read in blocks."""
        ids = self.passage_ids().tolist()
        for first in range(0, len(ids), _BLOCK):
            rows = self.passages(ids[first : first + _BLOCK])
            yield from ((number, *rows[number][:2]) for number in sorted(rows))

    def document_count(self) -> int:
        """How many documents there are."""
        return int(self._read("SELECT count(*) FROM documents")[0][0])

    def passage_count(self) -> int:
        """How many passages there are."""
        return int(self._read("SELECT count(*) FROM passages")[0][0])

    def passage_ids(self, filters: Mapping[str, str] | None = None) -> Ids:
        """Ids of all passages, ascending, or of those whose document has all the metadata named."""
        condition, values = _condition(filters)
        rows = self._read(f"SELECT p.id FROM passages p WHERE {condition} ORDER BY p.id", values)
        return np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))

    def vectors(self, ids: Ids) -> Iterator[tuple[Ids, Vectors]]:
        """Vectors of passages in blocks, ids ascending; ids that are gone are left out."""
        for first in range(0, len(ids), _BLOCK):
            rows = self._read(
                "SELECT passage_id, vector FROM vectors WHERE passage_id IN (SELECT value FROM json_each(?)) "
                "ORDER BY passage_id",
                (json.dumps(ids[first : first + _BLOCK].tolist()),),
            )
            if rows:
                block = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4").reshape(len(rows), -1)
                yield np.array([row[0] for row in rows], dtype=np.int64), block.astype(np.float32, copy=False)

    def bm25(self, question: str, k: int, filters: Mapping[str, str] | None = None) -> list[tuple[int, float]]:
        """The k best passages by BM25 among those the filters allow: (id, score), larger is better, ties by id."""
        expression = match_expression(question)
        if not expression or k < 1:
            return []
        allowed, values = "", list[str]()
        if filters:
            condition, values = _condition(filters)
            allowed = f"AND rowid IN (SELECT p.id FROM passages p WHERE {condition})"
        rows = self._read(
            f"SELECT rowid, bm25(terms) AS score FROM terms WHERE terms MATCH ? {allowed} "
            "ORDER BY score, rowid LIMIT ?",
            (expression, *values, k),
        )
        return [(int(number), -float(rank)) for number, rank in rows]

    def check_filters(self, filters: Mapping[str, str]) -> None:
        """Refuse a key that no document has, which is a slip of the pen rather than an empty answer.

        Raises:
            ArrieroError: naming the keys that exist.
        """
        known = {"document", *(row[0] for row in self._read("SELECT DISTINCT key FROM metadata"))}
        if unknown := sorted(set(filters) - known):
            listed = ", ".join(sorted(known))
            raise ArrieroError(
                f"no document has the metadata '{unknown[0]}'{did_you_mean(unknown[0], known)}: known are {listed}"
            )

    def verify(self) -> list[str]:
        """What is wrong with the file: SQLite's own checks, orphans, and passages without vector or terms."""
        found = [str(row[0]) for row in self._read("PRAGMA integrity_check") if row[0] != "ok"]
        found += [f"orphan in {row[0]}" for row in self._read("PRAGMA foreign_key_check")]
        for table, key in (("vectors", "passage_id"), ("terms", "rowid")):
            own, theirs = "SELECT id FROM passages", f"SELECT {key} FROM {table}"
            for trouble, query in (
                ("missing from", f"{own} EXCEPT {theirs}"),
                ("left over in", f"{theirs} EXCEPT {own}"),
            ):
                count = self._read(f"SELECT count(*) FROM ({query})")[0][0]
                found += [f"{count} passages {trouble} {table}"] if count else []
        return found

    def _raise_generation(self) -> None:
        self._db.execute("UPDATE settings SET value = value + 1 WHERE key = 'generation'")

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # SQLite itself may have rolled back, after a full disk for one
            self._db.execute("ROLLBACK")

    def _put_metadata(self, document: int, metadata: Mapping[str, str], *, given: bool) -> None:
        """The file's own metadata replaces what it said before; the user's is added to what they said before."""
        if not given:
            self._db.execute("DELETE FROM metadata WHERE document_id = ? AND NOT given", (document,))
        conflict = "REPLACE" if given else "IGNORE"
        rows = [(document, _clean(str(key)), _clean(str(value)), given) for key, value in metadata.items()]
        self._db.executemany(f"INSERT OR {conflict} INTO metadata VALUES (?, ?, ?, ?)", rows)

    def _put_passage(self, document: int, passage: Passage, vector: Vectors) -> None:
        text = _clean(passage.text)
        cut = (passage.ordinal, text, passage.start, passage.end, passage.page, passage.page_end, passage.section)
        columns = 'document_id, ordinal, text, start, "end", page, page_end, section'
        number = self._db.execute(
            f"INSERT INTO passages ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (document, *cut)
        ).lastrowid
        self._db.execute("INSERT INTO vectors VALUES (?, ?)", (number, vector.astype("<f4").tobytes()))
        self._db.execute("INSERT INTO terms (rowid, text) VALUES (?, ?)", (number, index_text(text)))

    def _read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._lock, _readable_errors(self.path):
            return self._db.execute(query, values).fetchall()


def _readable_errors(path: Path) -> AbstractContextManager[None]:
    return readable_errors(path, f"the collection in {path.parent}")


def _condition(filters: Mapping[str, str] | None) -> tuple[str, list[str]]:
    """A condition on `passages p` that is true where its document has all the metadata named."""
    conditions, values = ["1"], []
    for key, value in (filters or {}).items():
        if key == "document":
            conditions.append("p.document_id IN (SELECT id FROM documents WHERE name = ?)")
            values.append(_clean(value))
        else:
            conditions.append("p.document_id IN (SELECT document_id FROM metadata WHERE key = ? AND value = ?)")
            values += [key, _clean(value)]
    return " AND ".join(conditions), values


def _vector(blob: bytes) -> Vectors:
    return np.frombuffer(blob, dtype="<f4").astype(np.float32, copy=False)


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which no UTF-8 file can hold."""
    return text.encode("utf-8", "replace").decode()
