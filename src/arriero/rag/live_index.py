"""The index kept in step with its store: loaded from a snapshot, caught up, written again after changes.

A snapshot is trusted only if the store knows its token. The store notes the token of a snapshot before it is written
and keeps the one before, so either file found after a crash is good, and a file of another history (a store restored
from a backup beside a newer snapshot) is not. A trusted snapshot is caught up by comparing ids; any other is built
again. A reader never builds a graph: without a snapshot it searches exactly.
"""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arriero.common.errors import StorageError
from arriero.rag.index import HNSW_FROM, FaissIndex
from arriero.rag.store import Store

TOKENS = "index_tokens"
"""The store's setting of which snapshots are to be trusted."""


@dataclass(frozen=True, kw_only=True)
class IndexFacts:
    """What is to be told of an index."""

    kind: str
    """`flat`, `hnsw` or `qdrant`."""
    vectors: int
    missing: int
    """Passages of the store that a server lacks, and this process searches instead."""
    bytes: int | None
    """Of the snapshot, and about as many in memory; None where there is none."""
    server: str | None


class LiveIndex:
    """The index of an open store."""

    def __init__(self, store: Store, path: Path, *, dim: int, hnsw_from: int = HNSW_FROM) -> None:
        self._store = store
        self._path = path
        self._dim = dim
        self._hnsw_from = hnsw_from
        self._index: FaissIndex | None = None
        self._generation = -1
        self._saved_generation = -1

    def get(self) -> FaissIndex:
        """The index as of the store's present view; call it inside `Store.read` or under the writer's lock."""
        generation = self._store.generation
        if self._index is None:
            self._index = self._load(generation)
        if self._generation != generation:
            self._catch_up(self._index)
            self._generation = generation
        return self._index

    def save(self) -> None:
        """Write a snapshot if the store has changed since the last one; under the writer's lock.

        Raises:
            StorageError: it could not be written. Nothing is lost: the index is built again from the store.
        """
        with self._store.read():
            self.get()
        if self._generation == self._saved_generation and self._path.is_file():
            return
        assert self._index is not None
        self._index = index = self._index.settled()
        token = secrets.token_hex(8)
        self._store.set_settings(**{TOKENS: json.dumps([*self._tokens()[-1:], token])})
        try:
            index.save(self._path, generation=self._generation, token=token)
        except OSError as error:
            raise StorageError(
                f"the documents are stored, but the index in {self._path.parent} could not be written "
                f"({error.strerror or error}); it is built again when needed"
            ) from error
        self._saved_generation = self._generation

    def facts(self) -> IndexFacts:
        """What the index holds of the store's present view."""
        index = self.get()
        size = self._path.stat().st_size if self._path.is_file() else None
        return IndexFacts(kind=index.kind, vectors=len(index), missing=0, bytes=size, server=None)

    def _load(self, generation: int) -> FaissIndex:
        found = FaissIndex.load(self._path, dim=self._dim, tokens=self._tokens(), hnsw_from=self._hnsw_from)
        if found is None or found[1] > generation:
            return FaissIndex(self._dim, hnsw_from=self._hnsw_from)
        index, self._generation = found
        self._saved_generation = self._generation
        return index

    def _catch_up(self, index: FaissIndex) -> None:
        present = self._store.passage_ids()
        index.remove(np.setdiff1d(index.ids, present, assume_unique=True))
        missing = np.setdiff1d(present, index.ids, assume_unique=True)
        if len(missing) and len(index.ids) and missing[0] < index.ids[-1]:
            index.clear()  # ids only ever grow, so this index belongs to some other store
            missing = present
        for ids, vectors in self._store.vectors(missing):
            index.add(ids, vectors)

    def _tokens(self) -> list[str]:
        tokens: list[str] = json.loads(self._store.setting(TOKENS) or "[]")
        return tokens
