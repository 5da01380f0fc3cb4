"""The store: whole documents or nothing, ids that are never used twice, filters before ranks, clear refusals."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.rag.passage import Passage
from arriero.rag.store import DocumentRow, Store

DIM = 4


@pytest.fixture
def store(tmp_path: Path):
    with closing(Store.create(tmp_path / "store.sqlite")) as opened:
        yield opened


def row(name: str, *, given: dict[str, str] | None = None, **metadata: str) -> DocumentRow:
    return DocumentRow(
        name=name,
        location=name.encode(),
        content_hash="h",
        chunking="c",
        characters=9,
        metadata=metadata,
        given=given or {},
    )


def put(store: Store, name: str, *texts: str, given: dict[str, str] | None = None, **metadata: str) -> None:
    passages = [Passage(text, name, 5 * i, 5 * i + 4, i + 1, i + 2, f"§{i}", i) for i, text in enumerate(texts)]
    vectors = np.array([[len(text), i, 1 / 3, -1e-30] for i, text in enumerate(texts)], dtype=np.float32).reshape(
        -1, DIM
    )
    store.replace(row(name, given=given, **metadata), passages, vectors)


def test_a_passage_comes_back_as_it_went_in(store: Store) -> None:
    put(store, "a.pdf", "first text", "第二段", author="Ada")
    numbers = store.passage_ids()
    passage, vector, metadata = store.passages(numbers.tolist())[int(numbers[1])]
    assert passage == Passage("第二段", "a.pdf", 5, 9, 2, 3, "§1", 1)
    np.testing.assert_array_equal(vector, np.array([3, 1, 1 / 3, -1e-30], dtype=np.float32))
    assert metadata == {"author": "Ada"}


def test_each_passage_passes_by_once_whatever_is_read_at_a_time(store: Store, monkeypatch) -> None:
    assert list(store.each_passage()) == []
    for name in "abc":
        put(store, name, f"first of {name}", f"second of {name}")
    store.delete(["b"])
    for block in (1, 3, 4096):
        monkeypatch.setattr("arriero.rag.store._BLOCK", block)
        seen = list(store.each_passage())
        assert [number for number, _, _ in seen] == store.passage_ids().tolist()
        assert [passage.text for _, passage, _ in seen] == ["first of a", "second of a", "first of c", "second of c"]
        for number, _, vector in seen:
            np.testing.assert_array_equal(vector, store.passages([number])[number][1])


def test_ids_are_never_used_twice(store: Store) -> None:
    put(store, "a", "x", "y")
    before = store.passage_ids().max()
    store.delete(["a"])
    put(store, "a", "z")
    assert store.passage_ids().min() > before
    assert store.passages([int(before)]) == {}


def test_replacing_leaves_nothing_of_the_old(store: Store) -> None:
    put(store, "a", "old words", "old more", author="Ada", given={"team": "x"})
    put(store, "a", "new words", title="T")
    assert store.bm25("old", 5) == []
    assert len(store.bm25("words", 5)) == 1
    assert store.documents()[0].metadata == {"title": "T", "team": "x"}  # what the user gave stays
    assert store.verify() == []


def test_what_the_user_gives_wins(store: Store) -> None:
    put(store, "a", "x", author="file", given={"author": "user"})
    put(store, "a", "x", author="file again")
    assert store.documents()[0].metadata == {"author": "user"}


def test_a_transaction_is_whole_or_nothing(store: Store) -> None:
    put(store, "a", "kept")

    def half() -> None:
        with store.write():
            put(store, "b", "gone")
            store.delete(["a"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert [info.name for info in store.documents()] == ["a"]
    assert store.verify() == []


def test_generation_rises_with_every_change(store: Store) -> None:
    seen = [store.generation]
    put(store, "a", "x")
    seen.append(store.generation)
    store.delete(["a"])
    seen.append(store.generation)
    assert seen == sorted(set(seen))


def test_filters_come_before_the_top_k(store: Store) -> None:
    for number in range(50):
        put(store, f"d{number}", "llama " * (60 - number), kind="common")
    put(store, "rare", "a llama among many other words here", kind="rare")
    assert "rare" not in names(store, store.bm25("llama", 5))
    assert names(store, store.bm25("llama", 5, {"kind": "rare"})) == ["rare"]
    assert names(store, store.bm25("llama", 5, {"kind": "rare", "document": "rare"})) == ["rare"]
    assert store.bm25("llama", 5, {"kind": "rare", "document": "d1"}) == []
    assert len(store.passage_ids({"kind": "rare"})) == 1


def test_an_unknown_filter_is_refused_with_the_nearest(store: Store) -> None:
    put(store, "a", "x", author="Ada")
    with pytest.raises(ArrieroError, match="did you mean author"):
        store.check_filters({"autor": "Ada"})


def test_bm25_orders_equal_scores_by_id(store: Store) -> None:
    for name in "dcba":
        put(store, name, "the same text")
    found = store.bm25("same", 3)
    assert [number for number, _ in found] == sorted(number for number, _ in found)
    assert len({score for _, score in found}) == 1


def test_bm25_larger_is_better(store: Store) -> None:
    put(store, "once", "llama and other animals of the mountains")
    put(store, "often", "llama llama llama")
    for number in range(9):
        put(store, f"x{number}", "nothing of the kind")
    (first, high), (_, low) = store.bm25("llama", 5)
    assert store.passages([first])[first][0].document == "often"
    assert high > low > 0


def test_vectors_come_in_blocks_and_in_order(store: Store) -> None:
    for number in range(5):
        put(store, f"d{number}", *["t" * (number + 1)] * 3)
    ids = store.passage_ids()
    blocks = list(store.vectors(np.append(ids, 10**6)))
    assert np.concatenate([block for block, _ in blocks]).tolist() == ids.tolist()
    assert np.concatenate([rows for _, rows in blocks])[:, 0].tolist() == [n + 1 for n in range(5) for _ in range(3)]


def test_known_vectors_of_a_document(store: Store) -> None:
    put(store, "a", "one", "three")
    assert {text: float(vector[0]) for text, vector in store.known_vectors("a").items()} == {"one": 3.0, "three": 5.0}
    assert store.known_vectors("b") == {}


def test_odd_texts_are_stored(store: Store) -> None:
    texts = ["nul \0 inside", "half \ud800 a pair", "'; DROP TABLE passages; --", "😀" * 300]
    put(store, "odd\nname", *texts, key="\ud800")
    assert len(store.passage_ids()) == 4
    assert store.verify() == []


def test_missing_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="arriero rag add"):
        Store(tmp_path / "store.sqlite")


def test_newer_schema_is_refused(store: Store) -> None:
    with closing(sqlite3.connect(store.path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(FormatError, match="schema 99"):
        Store(store.path)


@pytest.mark.parametrize(
    "content", [b"no database at all, but some text of a hundred bytes" * 3, b"SQLite format 3\0" + b"\xff" * 900]
)
def test_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"store\.sqlite"):
        Store(path)


def test_another_programs_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(FormatError, match="no collection"):
        Store(path)


def test_full_disk_is_told_and_nothing_is_lost(store: Store) -> None:
    put(store, "a", "kept")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(ArrieroError, match="disk is full"):
        put(store, "b", *["many words " * 200] * 50)
    assert [info.name for info in store.documents()] == ["a"]
    assert store.verify() == []
    store._db.execute("PRAGMA max_page_count = 1000000")
    put(store, "b", "now it fits")
    assert len(store.documents()) == 2


def test_a_reader_sees_one_state_while_another_writes(store: Store) -> None:
    put(store, "a", "x")
    with closing(Store(store.path)) as reader, reader.read():
        before = reader.passage_count()
        put(store, "b", "y", "z")
        assert reader.passage_count() == before
    with closing(Store(store.path)) as reader:
        assert reader.passage_count() == before + 2


def test_threads_share_a_store(store: Store) -> None:
    threads = [threading.Thread(target=put, args=(store, f"d{number}", *"abc")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.passage_ids()) == 24
    assert store.verify() == []


def names(store: Store, hits: list[tuple[int, float]]) -> list[str]:
    rows = store.passages([number for number, _ in hits])
    return [rows[number][0].document for number, _ in hits]
