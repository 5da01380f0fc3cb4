"""The index in step with its store: snapshots of this history are caught up, others are built again."""

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from arriero.rag.live_index import LiveIndex
from arriero.rag.passage import Passage
from arriero.rag.store import DocumentRow, Store

DIM = 8


@pytest.fixture
def store(tmp_path: Path):
    with closing(Store.create(tmp_path / "store.sqlite")) as opened:
        yield opened


def put(store: Store, name: str, count: int = 30) -> np.ndarray:
    vectors = np.random.default_rng(sum(name.encode())).standard_normal((count, DIM)).astype(np.float32)
    passages = [Passage(f"{name} {n}", name, n, n + 1, None, None, None, n) for n in range(count)]
    row = DocumentRow(name=name, location=None, content_hash="", chunking="", characters=1, metadata={}, given={})
    store.replace(row, passages, vectors)
    return vectors


def live(store: Store, **settings: int) -> LiveIndex:
    return LiveIndex(store, store.path.with_name("index.faiss"), dim=DIM, **settings)


def nearest(store: Store, index: LiveIndex, query: np.ndarray) -> str:
    with store.read():
        (best,) = index.get().search(query, 1)
        return store.passages([best])[best][0].text


def test_a_snapshot_saves_reading_the_vectors(store: Store, monkeypatch) -> None:
    vectors = put(store, "a")
    live(store).save()
    monkeypatch.setattr(store, "vectors", lambda ids: iter(()))  # nothing comes from the store any more
    scaled = vectors[3] / np.linalg.norm(vectors[3])
    assert len(live(store).get()) == 30
    assert nearest(store, live(store), scaled)


def test_a_running_index_follows_its_store(store: Store) -> None:
    index = live(store)
    put(store, "a")
    assert len(index.get()) == 30
    vectors = put(store, "b") * 100
    assert nearest(store, index, vectors[5]).startswith(("a", "b"))
    store.delete(["a"])
    assert len(index.get()) == 30
    assert index.get().ids.tolist() == store.passage_ids().tolist()


def test_saving_again_writes_only_after_a_change(store: Store) -> None:
    put(store, "a")
    index = live(store)
    index.save()
    path = store.path.with_name("index.faiss")
    before = path.stat().st_mtime_ns
    index.save()
    live(store).save()
    assert path.stat().st_mtime_ns == before
    put(store, "b")
    index.save()
    assert path.stat().st_mtime_ns != before


def test_a_snapshot_of_another_history_is_not_trusted(store: Store, tmp_path: Path) -> None:
    """A store comes back from a backup, goes another way, and finds the snapshot of the first way beside it."""
    put(store, "a")
    live(store).save()
    store.close()
    shutil.copy(store.path, tmp_path / "backup.sqlite")
    with closing(Store(store.path)) as first:
        put(first, "b")
        live(first).save()
    shutil.copy(tmp_path / "backup.sqlite", store.path)
    with closing(Store(store.path)) as second:
        put(second, "c")
        put(second, "d")
        index = live(second)
        assert index.get().ids.tolist() == second.passage_ids().tolist()
        exact = np.concatenate([rows for _, rows in second.vectors(second.passage_ids())])
        for query in exact[::7]:
            best = int(second.passage_ids()[(exact @ query).argmax()])
            assert index.get().search(query, 1) == [best]


def test_the_graph_is_built_by_the_writer_alone(store: Store) -> None:
    put(store, "a", 60)
    reader = live(store, hnsw_from=50)
    assert reader.get().kind == "flat"
    writer = live(store, hnsw_from=50)
    writer.save()
    assert writer.get().kind == "hnsw"
    assert live(store, hnsw_from=50).get().kind == "hnsw"
    store.delete(["a"])
    put(store, "b", 20)
    writer.save()
    assert writer.get().kind == "flat"
    assert len(writer.get()) == 20
