"""Passages' vectors in a collection of a Qdrant server: inner products (Distance.DOT), a point's id is its passage's.

The graph is built as the one in this process (`rag/index.py`), and a filter searches exactly among the allowed passages
here too. Beside the passages lies one point that is none, the stamp: its payload says which state of which store the
points belong to.

Only this file imports qdrant_client.
"""

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from arriero.common.errors import ArrieroError, StorageError, require
from arriero.rag.contracts import Ids, Vectors
from arriero.rag.index import EF_BUILD, EF_SEARCH, LINKS, TIES

KEY = "ARRIERO_QDRANT_KEY"
"""The environment variable with the server's API key."""
_STAMP = 0  # the stamp's id: those of passages begin at 1
_TIMEOUT_S = 10  # of one request
_SEND = 256  # points in one request: 3 MB of JSON at 1,024 dimensions
_LIST = 10_000  # ids in one request
_PURPOSE = "searching vectors on a server"


def check_url(url: str) -> str:
    """A server's URL as it is kept.

    Raises:
        ArrieroError: it is none, or holds a password or more than an address.
    """
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        whole = False
    if not whole or "@" in url or parts.query or parts.fragment:
        raise ArrieroError(
            f"no URL of a Qdrant server: expected one like http://127.0.0.1:6333 without user or password (an API key "
            f"comes from the environment variable {KEY}), or none"
        )
    return url.rstrip("/")


@functools.cache
def open_client(url: str) -> Any:
    """The client of a server, one for all of this process; nothing is sent yet.

    Raises:
        MissingExtraError: qdrant-client is not installed.
    """
    qdrant = require("qdrant_client", extra="qdrant", purpose=_PURPOSE)
    with warnings.catch_warnings(action="ignore"):  # of a key without TLS: `rag index --server` tells it
        return qdrant.QdrantClient(url=url, api_key=os.environ.get(KEY), timeout=_TIMEOUT_S, check_compatibility=False)


class QdrantIndex:
    """One collection of a server. Every call may raise a `StorageError` that says what the server did instead."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self._client = open_client(url)
        self._models = require("qdrant_client.models", extra="qdrant", purpose=_PURPOSE)

    def stamp(self) -> dict[str, Any] | None:
        """What the points belong to, {} where nothing says so; None where the collection is not there."""
        with self._told():
            if not self._client.collection_exists(self.name):
                return None
            points = self._client.retrieve(self.name, ids=[_STAMP], with_payload=True)
        return dict(points[0].payload or {}) if points else {}

    def create(self, dim: int, stamp: dict[str, Any]) -> None:
        """Make the collection, with the stamp alone."""
        models = self._models
        with self._told():
            self._client.create_collection(
                self.name,
                vectors_config=models.VectorParams(size=dim, distance=models.Distance.DOT),
                hnsw_config=models.HnswConfigDiff(m=LINKS, ef_construct=EF_BUILD),
            )
        self._upsert([_STAMP], np.zeros((1, dim), dtype=np.float32), [stamp])

    def set_stamp(self, stamp: dict[str, Any]) -> None:
        """Say what the points belong to from now on."""
        with self._told():
            self._client.overwrite_payload(self.name, payload=stamp, points=[_STAMP], wait=True)

    def drop(self) -> None:
        """Remove the collection with all its points."""
        with self._told():
            self._client.delete_collection(self.name)

    @property
    def ids(self) -> Ids:
        """Passages that are there, ascending."""
        found: list[int] = []
        offset = None
        while True:
            with self._told():
                points, offset = self._client.scroll(
                    self.name, limit=_LIST, offset=offset, with_payload=False, with_vectors=False
                )
            found += [point.id for point in points if point.id != _STAMP]
            if offset is None:
                return np.array(sorted(found), dtype=np.int64)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add passages: ids (N,), vectors (N, dim)."""
        for first in range(0, len(ids), _SEND):
            block = slice(first, first + _SEND)
            self._upsert(ids[block].tolist(), vectors[block], None)

    def remove(self, ids: Ids) -> None:
        """Remove passages."""
        for first in range(0, len(ids), _LIST):
            points = self._models.PointIdsList(points=ids[first : first + _LIST].tolist())
            with self._told():
                self._client.delete(self.name, points_selector=points, wait=True)

    def nearest(self, query: Vectors, k: int, held: Ids) -> list[tuple[float, int]]:
        """The k largest inner products with `query` (dim,) and those equal to the last, of passages that `held` names.

        Args:
            query: (dim,) fp32.
            k: how many.
            held: ascending; what the server has beside these is looked over.
        """
        fetch = k + TIES
        while k > 0 and len(held):
            found = self._run(query, fetch, None)
            places = np.searchsorted(held, [number for _, number in found])
            known = held[np.minimum(places, len(held) - 1)]
            kept = [hit for hit, number in zip(found, known, strict=True) if hit[1] == number]
            if len(found) < fetch or (len(kept) >= k and found[-1][0] < kept[k - 1][0]):
                return kept
            fetch *= 2
        return []

    def among(self, query: Vectors, k: int, allowed: Ids) -> list[tuple[float, int]]:
        """Exact search among passages that are there: at least the k largest inner products, and ties with the last."""
        found: list[tuple[float, int]] = []
        for first in range(0, len(allowed), _LIST):
            block = allowed[first : first + _LIST].tolist()
            fetch = k + TIES
            while True:
                hits = self._run(query, fetch, block)
                if len(hits) < fetch or hits[-1][0] < hits[k - 1][0]:
                    break
                fetch *= 2
            found += hits
        return found

    def _run(self, query: Vectors, fetch: int, allowed: list[int] | None) -> list[tuple[float, int]]:
        models, chosen = self._models, None
        if allowed is not None:
            chosen = models.Filter(must=[models.HasIdCondition(has_id=allowed)])
        with self._told():
            answer = self._client.query_points(
                self.name,
                query=query.tolist(),
                limit=fetch,
                query_filter=chosen,
                search_params=models.SearchParams(hnsw_ef=max(EF_SEARCH, 2 * fetch), exact=allowed is not None),
                with_payload=False,
            )
        return [(float(point.score), int(point.id)) for point in answer.points]

    def _upsert(self, ids: list[int], vectors: Vectors, payloads: list[dict[str, Any]] | None) -> None:
        points = self._models.Batch(ids=ids, vectors=vectors.tolist(), payloads=payloads)
        with self._told():
            self._client.upsert(self.name, points=points, wait=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the client raises into one line.

        Raises:
            StorageError: no server, another one, a key it refuses, or a collection that it has lost.
        """
        api = require("qdrant_client.http.exceptions", extra="qdrant", purpose=_PURPOSE)
        common = require("qdrant_client.common.client_exceptions", extra="qdrant", purpose=_PURPOSE)
        try:
            yield
        except api.UnexpectedResponse as error:
            raise StorageError(self._refusal(error.status_code, error.reason_phrase)) from error
        except (api.ApiException, common.QdrantException) as error:
            why = str(error.source if isinstance(error, api.ResponseHandlingException) else error)
            raise StorageError(
                f"no Qdrant server answers at {self.url} ({why.partition(chr(10))[0] or 'too late'}): start it, search "
                "by words alone (`--mode bm25`), or take the vectors back (`arriero rag index --server none`)"
            ) from error

    def _refusal(self, status: int | None, reason: str) -> str:
        if status in (401, 403):
            return f"the Qdrant server at {self.url} refuses the API key: expected in the environment variable {KEY}"
        if status == 404:
            return f"the server at {self.url} has no '{self.name}' (if it is Qdrant, `arriero rag update` sends it)"
        return f"the server at {self.url} answers {status} ({reason}): expected Qdrant; see the server's log"
