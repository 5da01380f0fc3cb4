"""The vector index: exact, honest about small corpora, and never fooled by a file."""

from pathlib import Path

import numpy as np
import pytest

from arriero.rag.index import FaissIndex

DIM = 24


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def built(count: int, *, hnsw_from: int = 10**9, seed: int = 0) -> tuple[FaissIndex, np.ndarray, np.ndarray]:
    index = FaissIndex(DIM, hnsw_from=hnsw_from)
    numbers = np.arange(10, 10 + 3 * count, 3, dtype=np.int64)
    data = vectors(count, seed)
    index.add(numbers, data)
    return index.settled(), numbers, data


def exact(numbers: np.ndarray, data: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    order = sorted(range(len(numbers)), key=lambda row: (-float(data[row] @ query), numbers[row]))
    return [int(numbers[row]) for row in order[:k]]


def test_search_is_exact_inner_product() -> None:
    index, numbers, data = built(300)
    for query in vectors(20, seed=1):
        assert index.search(query, 7) == exact(numbers, data, query, 7)


@pytest.mark.parametrize("hnsw_from", [10**9, 1])
def test_corpus_smaller_than_k_gives_fewer_hits(hnsw_from: int) -> None:
    index, numbers, _ = built(3, hnsw_from=hnsw_from)
    found = index.search(vectors(1, seed=1)[0], 50)
    assert sorted(found) == numbers.tolist()
    assert index.search(vectors(1)[0], 5, ids()) == []
    assert FaissIndex(DIM).search(vectors(1)[0], 5) == []


def test_negative_scores_are_ranked_rightly() -> None:
    index = FaissIndex(2)
    index.add(ids(1, 2, 3), np.array([[-3, 0], [-1, 0], [-2, 0]], dtype=np.float32))
    assert index.search(np.array([1, 0], dtype=np.float32), 10) == [2, 3, 1]


@pytest.mark.parametrize("k", [1, 5, 30])
def test_equal_scores_are_ordered_by_id_even_at_the_end(k: int) -> None:
    index = FaissIndex(DIM)
    data = np.repeat(vectors(1), 200, axis=0)
    index.add(np.arange(200, dtype=np.int64), data)
    assert index.search(data[0], k) == list(range(k))


@pytest.mark.parametrize("hnsw_from", [10**9, 1])
def test_filter_comes_before_the_top_k(hnsw_from: int) -> None:
    index, numbers, data = built(400, hnsw_from=hnsw_from)
    query = vectors(1, seed=2)[0]
    worst = exact(numbers, data, -query, 3)
    assert index.search(query, 2, np.sort(np.array(worst))) == worst[::-1][:2]


def test_ids_that_are_not_there_may_be_allowed() -> None:
    index, numbers, _ = built(5)
    assert index.search(vectors(1)[0], 5, ids(1, 2, int(numbers[2]), 999)) == [int(numbers[2])]


def test_deleted_passages_are_never_found() -> None:
    index, numbers, data = built(300)
    index.remove(numbers[::2])
    query = data[0]
    assert index.search(query, 500) == exact(numbers[1::2], data[1::2], query, 500)
    assert len(index) == 150


def test_grows_into_hnsw_which_agrees_with_exact_search() -> None:
    index, numbers, data = built(900, hnsw_from=1000)
    assert index.kind == "flat"
    more, data_more = np.arange(10_000, 11_100, dtype=np.int64), vectors(1100, seed=5)
    index.add(more[:600], data_more[:600])
    assert index.kind == "flat"  # whoever only reads builds no graph
    index = index.settled()
    assert index.kind == "hnsw"
    index.add(more[600:], data_more[600:])
    assert index.settled() is index
    everything, rows = np.concatenate([numbers, more]), np.concatenate([data, data_more])
    queries = vectors(50, seed=3)
    hits = [len(set(index.search(q, 10)) & set(exact(everything, rows, q, 10))) for q in queries]
    assert sum(hits) / 500 > 0.97


def test_hnsw_with_many_deletions_still_gives_k_hits_and_is_built_anew() -> None:
    index, numbers, data = built(1200, hnsw_from=400)
    query = data[7]
    near = exact(numbers, data, query, 400)  # all the nodes around the query die
    index.remove(np.sort(np.array(near)))
    alive = ~np.isin(numbers, near)
    found = index.search(query, 20)
    assert len(found) == 20
    assert len(set(found) & set(exact(numbers[alive], data[alive], query, 20))) >= 19
    fresh = index.settled()
    assert (fresh.kind, len(fresh), fresh.deleted) == ("hnsw", 800, set())
    assert index.deleted
    assert len(set(fresh.search(query, 20)) & set(found)) >= 19


def test_hnsw_shrinks_back_to_exact_search() -> None:
    index, numbers, data = built(500, hnsw_from=400)
    index.remove(numbers[:300])
    index = index.settled()
    assert index.kind == "flat"
    assert index.search(data[400], 5) == exact(numbers[300:], data[300:], data[400], 5)


@pytest.mark.parametrize("hnsw_from", [10**9, 100])
def test_snapshot_comes_back_whole(tmp_path: Path, hnsw_from: int) -> None:
    index, numbers, data = built(300, hnsw_from=hnsw_from)
    index.remove(numbers[:9])
    index.save(tmp_path / "index.faiss", generation=7, token="t")
    found = FaissIndex.load(tmp_path / "index.faiss", dim=DIM, tokens=["s", "t"], hnsw_from=hnsw_from)
    assert found is not None
    loaded, generation = found
    assert (generation, loaded.kind, loaded.deleted) == (7, index.kind, index.deleted)
    assert loaded.search(data[20], 30) == index.search(data[20], 30)
    loaded.add(ids(10**6), vectors(1, seed=9))
    assert 10**6 in loaded.search(vectors(1, seed=9)[0], 5)
    assert [path.name for path in tmp_path.iterdir()] == ["index.faiss"]


def test_faiss_itself_reads_a_snapshot(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    index, numbers, data = built(30)
    index.save(tmp_path / "index.faiss", generation=1, token="t")
    _, found = faiss.read_index(str(tmp_path / "index.faiss")).search(data[4:5], 1)
    assert found[0, 0] == numbers[4]


def test_damaged_snapshots_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    built(40)[0].save(path, generation=1, token="t")
    whole = path.read_bytes()
    assert FaissIndex.load(path, dim=DIM, tokens=["t"]) is not None
    assert FaissIndex.load(path, dim=DIM, tokens=["u"]) is None
    assert FaissIndex.load(path, dim=DIM + 1, tokens=["t"]) is None
    assert FaissIndex.load(tmp_path / "absent", dim=DIM, tokens=["t"]) is None
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    broken = [
        b"",
        whole[:5],
        whole[:-1],
        whole[:-50],
        whole[: len(whole) // 2],
        bytes(flipped),
        b"\xff" * 64,
        whole[9:],
    ]
    for content in broken:
        path.write_bytes(content)
        assert FaissIndex.load(path, dim=DIM, tokens=["t"]) is None
