"""Kill −9 and Ctrl-C at every kind of moment, two writers at once, a full disk: nothing lost, nothing doubled."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError
from arriero.common.lock import hold_lock
from arriero.rag import ingest
from arriero.rag.chunk import ChunkConfig
from arriero.rag.collection import INDEX_NAME, Collection
from arriero.rag.index import FaissIndex

CHILD = Path(__file__).with_name("crash_child.py")
FILES = 12


@pytest.fixture
def many(tmp_path: Path, write_file) -> Path:
    for number in range(FILES):
        write_file(tmp_path / "many" / f"d{number:02}.txt", " ".join(f"w{number}x{word}" for word in range(35)))
    return tmp_path / "many"


def start(folder: Path, docs: Path, moment: str = "none", count: int = 1, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), str(folder), str(docs), moment, str(count)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
    )


def check_sound(folder: Path, encoder, *, whole: bool = False) -> int:
    """What is stored is whole documents, found by what they say; returns how many there are."""
    with Collection.open(folder, encoder) as collection:
        if not collection.exists:
            return 0
        assert collection.store.verify() == []
        documents = collection.list()
        assert all(info.passages == 4 for info in documents)
        for info in documents:
            number = int(info.name[-6:-4])
            for mode in ("dense", "bm25"):
                hits = collection.search(" ".join(f"w{number}x{word}" for word in range(10)), k=50, mode=mode)
                assert hits[0].passage.document == info.name
                assert len({hit.passage_id for hit in hits}) == len(hits)
        if whole:
            assert len(documents) == FILES
        return len(documents)


@pytest.mark.parametrize(
    ("moment", "count"),
    [
        ("encode", 2),
        ("passage", 7),
        ("commit", 1),
        ("commit", 5),
        ("rename", 1),
        ("snapshot", 1),
        ("rename", 2),
        ("saved", 1),
    ],
)
def test_killed_at_a_moment_then_resumed(tmp_path: Path, many: Path, encoder, moment: str, count: int) -> None:
    folder = tmp_path / "collection"
    first = start(folder, many, moment, count)
    out, error = first.communicate(timeout=60)
    assert first.returncode == -signal.SIGKILL, error
    assert "finished" not in out
    stored = check_sound(folder, encoder)
    assert stored < FILES or moment in ("snapshot", "rename", "saved")
    with Collection.open(folder, encoder, chunk=ChunkConfig(words=10)) as collection:
        report = collection.add(many)
        assert len(report.unchanged) == stored  # what was committed is not done again
        assert report.encoded == 4 * (FILES - stored)
        assert FaissIndex.load(folder / INDEX_NAME, dim=encoder.dim, tokens=tokens(collection)) is not None
    check_sound(folder, encoder, whole=True)
    assert not list(folder.glob(".*part*"))


def test_killed_at_random_moments_until_it_is_done(tmp_path: Path, many: Path, encoder) -> None:
    folder = tmp_path / "collection"
    chance = random.Random(1)
    stored = 0
    for _ in range(5):
        process = start(folder, many, "slow")
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(chance.uniform(0.0, 0.25))
        process.kill()
        process.communicate(timeout=60)
        now = check_sound(folder, encoder)
        assert now >= stored
        stored = now
    last = start(folder, many)
    assert last.communicate(timeout=60)[0].endswith("finished\n")
    check_sound(folder, encoder, whole=True)


def test_ctrl_c_keeps_what_is_stored_and_resumes(collection: Collection, many: Path, encoder, monkeypatch) -> None:
    monkeypatch.setattr(ingest, "GROUP_PASSAGES", 6)

    def press(moment) -> None:
        if moment.files_done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collection.add(many, press)
    stored = len(collection.list())
    assert 0 < stored < FILES
    assert collection.store.verify() == []
    report = collection.add(many)
    assert (len(report.unchanged), len(report.added)) == (stored, FILES - stored)


def test_two_processes_add_at_once(tmp_path: Path, many: Path, encoder) -> None:
    folder = tmp_path / "collection"
    processes = [start(folder, many, "slow", WAIT_S="200") for _ in range(2)]
    for process in processes:
        out, error = process.communicate(timeout=250)
        assert out.endswith("finished\n"), error
    check_sound(folder, encoder, whole=True)


def test_the_second_writer_is_told_in_one_line(collection: Collection, many: Path, encoder) -> None:
    collection.add(many)
    with (
        hold_lock(collection.folder / "writer.lock", wait_s=0),
        Collection.open(collection.folder, encoder, wait_s=0.2) as second,
    ):
        with pytest.raises(ArrieroError, match=rf"process \(id {os.getpid()}\)") as caught:
            second.add(many)
        assert "\n" not in str(caught.value)
        assert len(second.search("w1x1", k=3)) == 3  # reading goes on


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "flipped", "foreign"])
def test_a_damaged_snapshot_is_built_again(collection: Collection, many: Path, encoder, damage: str) -> None:
    collection.add(many)
    collection.close()
    path = collection.folder / INDEX_NAME
    content = bytearray(path.read_bytes())
    if damage == "absent":
        path.unlink()
    elif damage == "foreign":
        index = FaissIndex(encoder.dim)
        index.save(path, generation=1, token="another history")
    else:
        content[100] ^= 1
        path.write_bytes({"empty": b"", "cut": bytes(content[:-40]), "flipped": bytes(content)}[damage])
    with Collection.open(collection.folder, encoder) as again:
        words = " ".join(f"w3x{word}" for word in range(20))
        assert again.search(words, k=1, mode="dense")[0].passage.document == "many/d03.txt"
        again.update()
    with Collection.open(collection.folder, encoder) as mended:
        assert FaissIndex.load(path, dim=encoder.dim, tokens=tokens(mended)) is not None


def test_a_stale_snapshot_is_caught_up(collection: Collection, many: Path, encoder, write_file) -> None:
    collection.add(many)
    old = (collection.folder / INDEX_NAME).read_bytes()
    write_file(many / "d03.txt", "zeppelin over the lake")
    (many / "d04.txt").unlink()
    collection.update()
    collection.close()
    (collection.folder / INDEX_NAME).write_bytes(old)  # as after a crash just before the rename
    with Collection.open(collection.folder, encoder) as again:
        assert again.search("zeppelin over the lake", k=1, mode="dense")[0].passage.text == "zeppelin over the lake"
        assert all("d04" not in hit.passage.document for hit in again.search("w4x1 w4x2", k=100, mode="dense"))


def test_full_disk_while_the_index_is_written(collection: Collection, many: Path, encoder, monkeypatch) -> None:
    collection.add(many / "d00.txt")

    def full(*_args: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FaissIndex, "save", full)
        with pytest.raises(ArrieroError, match=r"documents are stored.*No space left"):
            collection.add(many)
    assert len(collection.list()) == FILES
    assert len(collection.search("w7x1", k=100, mode="dense")) == collection.store.passage_count()
    assert len(collection.add(many).unchanged) == FILES


def test_full_disk_while_documents_are_stored(collection: Collection, many: Path, encoder, monkeypatch) -> None:
    monkeypatch.setattr(ingest, "GROUP_PASSAGES", 6)
    collection.add(many / "d00.txt")
    for path in many.iterdir():
        path.write_text(path.read_text() * 20)
    database = collection.store._db
    database.execute(f"PRAGMA max_page_count = {database.execute('PRAGMA page_count').fetchone()[0] + 40}")
    with pytest.raises(ArrieroError, match="disk is full"):
        collection.add(many)
    assert collection.store.verify() == []
    assert 1 < len(collection.list()) < FILES
    database.execute("PRAGMA max_page_count = 1000000")
    collection.add(many)
    assert len(collection.list()) == FILES


def tokens(collection: Collection) -> list[str]:
    return json.loads(collection.store.setting("index_tokens") or "[]")
