"""Watching: what is added, changed or removed shows in the collection, and the watch ends when told."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.common.lock import hold_lock
from arriero.rag import watch as module
from arriero.rag.collection import Collection
from arriero.rag.watch import watch

pytest.importorskip("watchfiles")


class Watcher:
    """A watch in a thread of its own, with what it reported."""

    def __init__(self, collection: Collection) -> None:
        self.reports: list = []
        self.errors: list[ArrieroError] = []
        self.stop = threading.Event()
        arguments = {"stop": self.stop, "debounce_ms": 200, "failed": self.errors.append}
        self.thread = threading.Thread(target=watch, args=(collection, self.reports.append), kwargs=arguments)

    def __enter__(self) -> "Watcher":
        self.thread.start()
        self.wait(lambda: self.reports)
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop.set()
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "the watch did not come round in 60 s"
            time.sleep(0.02)


def names(collection: Collection) -> set[str]:
    return {info.name for info in collection.list()}


def test_what_changes_between_the_first_update_and_the_first_notice_is_not_missed(
    collection: Collection, docs: Path, write_file, monkeypatch: pytest.MonkeyPatch
) -> None:
    import watchfiles

    notices = watchfiles.watch

    def late(*paths: Path, **options: object):
        write_file(docs / "between.txt", "Zeppelins over the lake.")
        return notices(*paths, **options)

    monkeypatch.setattr(watchfiles, "watch", late)
    collection.add(docs)
    with Watcher(collection) as watcher:
        watcher.wait(lambda: "docs/between.txt" in names(collection))


def test_changes_show_in_the_collection(collection: Collection, docs: Path, write_file) -> None:
    collection.add(docs)
    with Watcher(collection) as watcher:
        write_file(docs / "fresh" / "new.txt", "Zeppelins over the lake.")
        watcher.wait(lambda: "docs/fresh/new.txt" in names(collection))
        (docs / "bread.txt").unlink()
        watcher.wait(lambda: "docs/bread.txt" not in names(collection))
        write_file(docs / "llamas.txt", "Alpacas, rather.")
        watcher.wait(lambda: any("docs/llamas.txt" in report.updated for report in watcher.reports))
        assert collection.search("alpacas", k=1, mode="bm25")[0].passage.document == "docs/llamas.txt"
    assert collection.store.verify() == []


def test_a_burst_is_one_update(collection: Collection, docs: Path, write_file) -> None:
    collection.add(docs)
    with Watcher(collection) as watcher:
        for number in range(30):
            write_file(docs / f"burst{number}.txt", "Some text.")
        watcher.wait(lambda: len(names(collection)) == 33)
        assert len(watcher.reports) < 10


def test_its_own_and_hidden_files_wake_nobody(tmp_path: Path, encoder, docs: Path, write_file) -> None:
    with Collection.open(docs / "collection", encoder) as collection:
        collection.add(docs)
        with Watcher(collection) as watcher:
            before = len(watcher.reports)
            write_file(docs / "collection" / "note.txt", "x")
            write_file(docs / ".git" / "note.txt", "x")
            write_file(docs / "image.png", "x")
            time.sleep(1.0)
            assert len(watcher.reports) == before


def test_a_single_file_saved_by_renaming(collection: Collection, docs: Path, write_file) -> None:
    collection.add(docs / "bread.txt")
    with Watcher(collection) as watcher:
        for text in ("First change.", "Second change."):
            write_file(docs / "bread.tmp", text).replace(docs / "bread.txt")
            words = text.split()[0]
            watcher.wait(lambda words=words: collection.search(words, mode="bm25"))


def test_a_failed_update_is_told_and_tried_again(collection: Collection, docs: Path, write_file) -> None:
    collection.add(docs)
    collection._wait_s = 0.1
    with Watcher(collection) as watcher:
        with hold_lock(collection.folder / "writer.lock", wait_s=1):
            write_file(docs / "new.txt", "Some text.")
            watcher.wait(lambda: watcher.errors)
        write_file(docs / "newer.txt", "Some text.")
        watcher.wait(lambda: {"docs/new.txt", "docs/newer.txt"} <= names(collection))


def test_ctrl_c_ends_the_watch(collection: Collection, docs: Path, monkeypatch) -> None:
    collection.add(docs)

    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_update", interrupted)
    watch(collection, lambda report: None)


def test_nothing_to_watch_is_told(collection: Collection, docs: Path) -> None:
    collection.add(docs)
    collection.remove(docs)
    with pytest.raises(NotFoundError, match="rag add"):
        watch(collection, lambda report: None)
