"""The index on a server kept in step with its store, as `live_index.py` does for the one in this process.

The store says where (`index_server`), under which name, and which stamps are to be trusted. Each writer notes a new
stamp in the store, puts it on the server, changes the points, and then says in it which generation they have. So a
reader whose store has that stamp and generation need not look at the points. After a crash it has the stamp and an
earlier generation: then it searches what the store has and the server lacks in this process, exactly. A server that
went on with a copy of the store bears a stamp that this one does not know; nothing of it is believed, and the next
writer begins under another name, so that two collections never mix.
"""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arriero.common.errors import MissingExtraError, StorageError
from arriero.rag.contracts import Ids, Vectors
from arriero.rag.live_index import IndexFacts, LiveIndex
from arriero.rag.qdrant_index import QdrantIndex
from arriero.rag.store import Store

SERVER = "index_server"
"""The store's setting of the server's URL; without one, or empty, the index is in this process."""
_NAME, _STAMPS = "index_name", "index_stamps"
_UNFINISHED = -1  # the generation of points that are being changed


@dataclass(frozen=True)
class ServerView:
    """The server's index as of one generation of the store."""

    generation: int
    index: QdrantIndex
    held: Ids
    """Passages of the store that the server has, ascending."""
    missing: Ids
    """Those that it lacks, ascending."""
    vectors: Vectors
    """Of the missing ones (N, dim)."""

    def search(self, query: Vectors, k: int, allowed: Ids | None = None) -> list[int]:
        """Ids of the passages with the k largest inner products with `query` (dim,), best first, equal ones by id."""
        query = np.asarray(query, dtype=np.float32)
        missing, vectors = self.missing, self.vectors
        if allowed is None:
            found = self.index.nearest(query, k, self.held)
        else:
            found = self.index.among(query, k, np.intersect1d(allowed, self.held))
            chosen = np.isin(missing, allowed)
            missing, vectors = missing[chosen], vectors[chosen]
        scores = vectors @ query  # (N,)
        best = np.lexsort((missing, -scores))[:k]
        found += zip(scores[best].tolist(), missing[best].tolist(), strict=True)
        return [number for _, number in sorted(found, key=lambda hit: (-hit[0], hit[1]))[:k]]


class ServerIndex:
    """The index of an open store on a server."""

    def __init__(self, store: Store, url: str, *, dim: int) -> None:
        self._store = store
        self._url = url
        self._dim = dim
        self._view: ServerView | None = None

    def get(self) -> ServerView:
        """The index as of the store's present view; call it inside `Store.read` or under the writer's lock.

        Raises:
            StorageError: the server does not answer.
        """
        generation = self._store.generation
        if self._view is None or self._view.generation != generation:
            self._view = self._look(generation)
        return self._view

    def save(self) -> None:
        """Bring the server up to the store; under the writer's lock.

        Raises:
            StorageError: it did not take everything. Nothing is lost: the next writer goes on.
        """
        try:
            self._send()
        except StorageError as error:
            raise StorageError(
                f"the documents are stored, but not all their vectors on the server (`arriero rag update` sends them): "
                f"{error}"
            ) from error

    def facts(self) -> IndexFacts:
        """What the server holds of the store's present view."""
        view = self.get()
        return IndexFacts(
            kind="qdrant", vectors=len(view.held), missing=len(view.missing), bytes=None, server=self._url
        )

    def leave(self) -> None:
        """Remove from the server what is known to be this store's."""
        index = self._index()
        if self._knows(index.stamp()):
            index.drop()

    def _look(self, generation: int) -> ServerView:
        index, present = self._index(), self._store.passage_ids()
        stamp = index.stamp()
        held = np.empty(0, dtype=np.int64)
        if stamp is not None and self._knows(stamp) and stamp["encoder"] == self._encoder:
            held = present if stamp["generation"] == generation else np.intersect1d(present, index.ids)
        missing = np.setdiff1d(present, held, assume_unique=True)
        blocks = [vectors for _, vectors in self._store.vectors(missing)]
        vectors = np.concatenate([np.empty((0, self._dim), dtype=np.float32), *blocks])
        return ServerView(generation, index, held, missing, vectors)

    def _send(self) -> None:
        generation, index = self._store.generation, self._index()
        before = index.stamp()
        known = before if self._knows(before) else None
        if known and (known["generation"], known["encoder"]) == (generation, self._encoder):
            return
        if before is not None and known is None:
            index = QdrantIndex(self._url, _draw_name())
        token = secrets.token_hex(8)
        trusted = [known["token"], token] if known else [token]
        self._store.set_settings(**{_NAME: index.name, _STAMPS: json.dumps(trusted)})
        stamp = {"token": token, "generation": _UNFINISHED, "encoder": self._encoder}
        if known and known["encoder"] == self._encoder:
            index.set_stamp(stamp)
        else:
            if known:
                index.drop()  # vectors of another encoder have the same ids
            index.create(self._dim, stamp)
        present, held = self._store.passage_ids(), index.ids
        index.remove(np.setdiff1d(held, present, assume_unique=True))
        for ids, vectors in self._store.vectors(np.setdiff1d(present, held, assume_unique=True)):
            index.add(ids, vectors)
        index.set_stamp(stamp | {"generation": generation})
        self._view = None

    def _knows(self, stamp: dict[str, Any] | None) -> bool:
        return stamp is not None and stamp.get("token") in json.loads(self._store.setting(_STAMPS) or "[]")

    @property
    def _encoder(self) -> str:
        return self._store.setting("encoder_fingerprint") or ""

    def _index(self) -> QdrantIndex:
        return QdrantIndex(self._url, self._store.setting(_NAME) or _draw_name())


def open_index(store: Store, snapshot: Path, *, dim: int) -> LiveIndex | ServerIndex:
    """The index that the store says: on a server, or in this process with a snapshot."""
    url = store.setting(SERVER)
    return ServerIndex(store, url, dim=dim) if url else LiveIndex(store, snapshot, dim=dim)


def move_index(store: Store, url: str | None) -> str | None:
    """Note another place for the index; nothing is sent yet.

    Args:
        store: under the writer's lock.
        url: the server's; None is this process.

    Returns:
        Why the vectors on the server before could not be removed there, if so.

    Raises:
        StorageError: the new server does not answer; all is as before then.
    """
    before, why = store.setting(SERVER), None
    if (url or "") == (before or ""):
        return None
    if url:
        QdrantIndex(url, _draw_name()).stamp()
    if before:
        try:
            ServerIndex(store, before, dim=0).leave()
        except (StorageError, MissingExtraError) as error:
            why = f"the vectors stay on the server as '{store.setting(_NAME)}': {error}"
    store.set_settings(**{SERVER: url or "", _NAME: "", _STAMPS: "[]"})
    return why


def _draw_name() -> str:
    return f"arriero-{secrets.token_hex(8)}"
