"""The vector index: inner products over passages, derived from the store and thrown away whenever in doubt.

Exact search (`IndexFlatIP`) up to a measured size, then a native inner-product HNSW (Malkov & Yashunin 2016, arXiv
1603.09320); the detour of mapping inner products to L2 distances loses most of the recall and is not taken. A filter
always searches exactly among the allowed passages, before the best k are picked.

A snapshot is one file that appears whole: FAISS's own bytes (`faiss.read_index` reads them), then a trailer with
generation, token and checksum. What does not fit the store is built again from the store's vectors.

Only this file imports faiss.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arriero.common.errors import require
from arriero.common.files import atomic_file
from arriero.rag.contracts import Ids, Vectors

HNSW_FROM = 200_000
"""Passages from which HNSW serves instead of exact search. Measured by `benchmarks/index.py` (384 dimensions, 2 cores):
exact search takes 12 ms here, three times as long as encoding a question, HNSW 1 ms; below, exactness is worth it."""
LINKS = 32
EF_BUILD = 200
EF_SEARCH = 448  # of a million passages recall@10 0.987 in 1.7 ms of one core; 256 gives 0.971 in 1.0 ms
_REBUILD_SHARE = 0.2  # of the nodes; above it, deleted ones cost more than a new graph
TIES = 16  # fetched beyond k, so that equal scores at the end are ordered by id
_TRAILER = b"\narriero-index-trailer "


class FaissIndex:
    """An index in memory. Ids are added in ascending order, as the store gives them out."""

    def __init__(self, dim: int, *, hnsw_from: int = HNSW_FROM) -> None:
        self.dim = dim
        self.hnsw_from = hnsw_from
        self.deleted: set[int] = set()
        self._ids: Ids = np.empty(0, dtype=np.int64)
        self._faiss: Any = require("faiss", extra="rag", purpose="searching vectors")
        self._hold(self._faiss.IndexIDMap(self._faiss.IndexFlatIP(dim)))

    def __len__(self) -> int:
        return len(self._ids) - len(self.deleted)

    @property
    def kind(self) -> str:
        """`flat` or `hnsw`."""
        return "hnsw" if isinstance(self._inner, self._faiss.IndexHNSW) else "flat"

    @property
    def ids(self) -> Ids:
        """Ids that a search can find, ascending."""
        return self._ids[~np.isin(self._ids, list(self.deleted))] if self.deleted else self._ids

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add passages: ids (N,) ascending and above all earlier ones, vectors (N, dim)."""
        if not len(ids):
            return
        assert vectors.shape == (len(ids), self.dim)
        assert (np.diff(ids) > 0).all()
        assert not len(self._ids) or ids[0] > self._ids[-1]
        self._index.add_with_ids(np.ascontiguousarray(vectors), ids)
        self._ids = np.concatenate([self._ids, ids])

    def remove(self, ids: Ids) -> None:
        """Remove passages. HNSW keeps their nodes as stepping stones, and never returns them."""
        ids = ids[np.isin(ids, self.ids)]
        if not len(ids):
            return
        if self.kind == "flat":
            self._index.remove_ids(self._faiss.IDSelectorBatch(ids))
            self._ids = self._ids[~np.isin(self._ids, ids)]
            return
        self.deleted.update(ids.tolist())

    def settled(self) -> "FaissIndex":
        """This index, or one with the same passages of the kind that suits their number, without too many dead nodes.

        Building a graph takes minutes where it is worth it, so this is left to whoever writes; searches are right
        before and after. This index stays as it is, for those who search it meanwhile.
        """
        wanted = "hnsw" if len(self) >= self.hnsw_from else "flat"
        if self.kind == wanted and len(self.deleted) <= _REBUILD_SHARE * len(self._ids):
            return self
        alive = ~np.isin(self._ids, list(self.deleted))
        fresh = FaissIndex(self.dim, hnsw_from=self.hnsw_from)
        if wanted == "hnsw":
            graph = self._faiss.IndexHNSWFlat(self.dim, LINKS, self._faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = EF_BUILD
            fresh._hold(self._faiss.IndexIDMap(graph))
        vectors = self._vectors()
        fresh.add(self._ids[alive], vectors if alive.all() else vectors[alive])
        return fresh

    def clear(self) -> None:
        """Forget everything."""
        self.deleted = set()
        self._hold(self._faiss.IndexIDMap(self._faiss.IndexFlatIP(self.dim)))

    def search(self, query: Vectors, k: int, allowed: Ids | None = None) -> list[int]:
        """Ids of the passages with the k largest inner products with `query` (dim,), best first, equal ones by id.

        Fewer come back where fewer exist; among `allowed` alone where that is given.
        """
        query = np.ascontiguousarray(query, dtype=np.float32)
        if allowed is None:
            found = self._nearest(query, k)
        else:
            found = self._among(query, k, np.intersect1d(allowed, self.ids))
        return [number for _, number in sorted(found, key=lambda hit: (-hit[0], hit[1]))[:k]]

    def _nearest(self, query: Vectors, k: int) -> list[tuple[float, int]]:
        live = len(self)
        if self.kind == "flat":
            return _widen(lambda fetch: self._run(self._index, query, fetch, None), k, live)
        fetch = min(k + TIES, live)
        parameters = self._faiss.SearchParametersHNSW(efSearch=max(EF_SEARCH, 2 * fetch))
        if self.deleted:  # asked of every node that the walk meets, so not for nothing
            ids = np.fromiter(self.deleted, dtype=np.int64, count=len(self.deleted))
            selector = self._faiss.IDSelectorNot(self._faiss.IDSelectorBatch(ids))
            parameters.sel = selector
        found = self._run(self._index, query, fetch, parameters)
        # A walk through the graph can end among deleted nodes; an exact search then finds what it missed.
        return found if len(found) >= min(k, live) else self._among(query, k, self.ids)

    def _among(self, query: Vectors, k: int, allowed: Ids) -> list[tuple[float, int]]:
        """Exact search among some passages, through the flat vectors that lie under either kind."""
        if not len(allowed):
            return []
        positions = np.searchsorted(self._ids, allowed).astype(np.int64)
        parameters = self._faiss.SearchParameters(sel=self._faiss.IDSelectorBatch(positions))
        found = _widen(lambda fetch: self._run(self._storage, query, fetch, parameters), k, len(allowed))
        return [(score, int(self._ids[position])) for score, position in found]

    def _run(self, index: Any, query: Vectors, fetch: int, parameters: Any) -> list[tuple[float, int]]:
        if fetch < 1:
            return []
        # FAISS shares queries among threads, and here is one: a second thread only adds waiting (8 ms when busy).
        threads = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1)
        try:
            scores, ids = index.search(query[None], fetch, params=parameters)
        finally:
            self._faiss.omp_set_num_threads(threads)
        # FAISS fills up with −1 where it has too few.
        return [(float(score), int(number)) for score, number in zip(scores[0], ids[0], strict=True) if number >= 0]

    def _hold(self, index: Any) -> None:
        """Take an `IndexIDMap` with its parts. FAISS's parts live no longer than the whole, which therefore is kept."""
        self._index = index
        self._inner = self._faiss.downcast_index(index.index)
        flat = self._inner.storage if isinstance(self._inner, self._faiss.IndexHNSW) else self._inner
        self._storage = self._faiss.downcast_index(flat)
        self._ids = self._faiss.vector_to_array(index.id_map)

    def _vectors(self) -> Vectors:
        """The vectors by position, where FAISS has them: to be read before this index changes."""
        flat = self._storage
        view: Vectors = self._faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * self.dim).reshape(-1, self.dim)
        return view

    def save(self, path: Path, *, generation: int, token: str) -> None:
        """Write a snapshot, whole or not at all.

        Raises:
            OSError: FAISS could not write it: the disk is full.
        """
        with atomic_file(path) as aside:
            try:
                self._faiss.write_index(self._index, str(aside))
            except RuntimeError as error:  # FAISS's way to say that the disk is full
                raise OSError(f"FAISS could not write {path.name} ({str(error).splitlines()[0]})") from error
            trailer = {
                "generation": generation,
                "token": token,
                "dim": self.dim,
                "deleted": sorted(self.deleted),
                "sha256": _digest(aside, aside.stat().st_size),
            }
            with aside.open("ab") as file:
                body = json.dumps(trailer).encode()
                file.write(_TRAILER + body + len(body).to_bytes(8, "little"))

    @classmethod
    def load(
        cls, path: Path, *, dim: int, tokens: Sequence[str], hnsw_from: int = HNSW_FROM
    ) -> "tuple[FaissIndex, int] | None":
        """Read a snapshot and its generation; None where it is absent, damaged or has none of the tokens."""
        trailer, size = _read_trailer(path)
        if trailer.get("token") not in tokens or trailer["dim"] != dim or trailer["sha256"] != _digest(path, size):
            return None
        index = cls(dim, hnsw_from=hnsw_from)
        index._hold(index._faiss.read_index(str(path)))
        index.deleted = set(trailer["deleted"])
        return index, int(trailer["generation"])


def _widen(search: Callable[[int], list[tuple[float, int]]], k: int, total: int) -> list[tuple[float, int]]:
    """Fetch beyond k until the k-th score's equals are all there, so that ids and not chance decide among them."""
    fetch = min(k + TIES, total)
    while True:
        found = search(fetch)
        if fetch >= total or len(found) <= k or found[-1][0] < found[k - 1][0]:
            return found
        fetch = min(2 * fetch, total)


def _read_trailer(path: Path) -> tuple[dict[str, Any], int]:
    """A snapshot's trailer and the length of what lies before it; ({}, 0) where there is none."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - 8))
            length = int.from_bytes(file.read(8), "little")
            start = end - 8 - length - len(_TRAILER)
            if start < 0:
                return {}, 0
            file.seek(start)
            if file.read(len(_TRAILER)) != _TRAILER:
                return {}, 0
            trailer = json.loads(file.read(length))
            return (trailer, start) if isinstance(trailer, dict) else ({}, 0)
    except (OSError, ValueError, RecursionError):
        return {}, 0


def _digest(path: Path, size: int) -> str:
    """SHA-256 of the first `size` bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()
