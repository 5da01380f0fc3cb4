"""Uploads that outlive their client and their server: stopped, killed, taken up, given up."""

import json
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from arriero.common.errors import ArrieroError, BusyError
from arriero.rag.collection import Collection
from arriero.serve import intake, jobs
from arriero.serve.intake import INCOMING, IncomingFile, StoppedError, read_manifest, take_in, write_manifest
from arriero.serve.jobs import Job, Jobs
from arriero.serve.service import ServedCollection
from arriero.serve.uploads import Upload
from tests.serve.library import names, open_library, send

TEXT = b"the llamas carry wool "
BAD = b"%PDF-1.4 nothing"


@pytest.fixture
def served(tmp_path, tiny_encoder) -> ServedCollection:
    folder = tmp_path / "collections" / "books"
    with Collection.open(folder, tiny_encoder) as empty:
        empty.add([])
    collection = Collection.open(folder)
    yield ServedCollection(name="books", folder=folder, collection=collection)
    collection.close()


def test_an_app_begins_its_thread_with_the_first_upload(tmp_path, tiny_encoder):
    def at_work() -> int:
        return sum(thread.name == "arriero-jobs" for thread in threading.enumerate())

    before = at_work()
    with open_library(tmp_path, tiny_encoder) as client:
        client.post("/api/collections", json={"name": "books"})
        assert at_work() == before
        send(client, "books", ("a.txt", b"Lumo"))
        assert at_work() == before + 1


def receive(served: ServedCollection, number: int, *files: tuple[str, bytes]) -> list[Upload]:
    """Files as an upload leaves them."""
    folder = served.folder / INCOMING / f"job{number}"
    folder.mkdir(parents=True)
    uploads = []
    for place, (name, content) in enumerate(files):
        (folder / str(place)).write_bytes(content)
        uploads.append(Upload(name, folder / str(place), len(content)))
    return uploads


def submit(at: Jobs, served: ServedCollection, number: int, *files: tuple[str, bytes]) -> Job:
    uploads = receive(served, number, *files)
    return at.submit(served, uploads[0].path.parent, uploads)


def finish(job: Job) -> Job:
    deadline = time.monotonic() + 60
    while job.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not job.waiting
    return job


def kept(served: ServedCollection) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (served.folder / "files").glob("[!.]*")}


def left(served: ServedCollection) -> list[str]:
    return [path.name for path in (served.folder / INCOMING).iterdir()]


def documents(served: ServedCollection) -> list[str]:
    return [info.name for info in served.collection.list()]


class TestStop:
    def test_what_a_server_leaves_undone_the_next_one_does(self, served, monkeypatch):
        monkeypatch.setattr(jobs, "_PORTION_FILES", 1)
        first = Jobs()
        done = [submit(first, served, number, (f"{number}.txt", TEXT + b"%d" % number)) for number in range(3)]
        finish(done[0])
        first.close(60)
        assert left(served)
        second = Jobs()
        second.resume(served)
        for name in left(served):
            finish(second.get(name))
        second.close(60)
        assert documents(served) == ["0.txt", "1.txt", "2.txt"]
        assert left(served) == []

    def test_a_server_that_stops_within_a_file_leaves_it_to_the_next(self, served):
        finish(submit(at := Jobs(), served, 0, ("a.txt", b"the ships carry rain")))
        at.close(60)
        files = [IncomingFile(name="a.txt", path=upload.path, size=1) for upload in receive(served, 1, ("a.txt", TEXT))]
        folder = files[0].path.parent
        write_manifest(folder, files)

        def stop() -> None:
            raise StoppedError

        with pytest.raises(StoppedError):
            take_in(served, files, stop)
        assert files[0].state == "waiting"
        next_one = Jobs()
        next_one.resume(served)
        assert finish(next_one.get("job1")).state == "done"
        next_one.close(60)
        assert kept(served) == {"a.txt": TEXT}
        assert left(served) == []
        assert served.collection.search("llamas", mode="bm25")

    @pytest.mark.parametrize("placed", ["received", "between", "placed"])
    @pytest.mark.parametrize(("content", "state"), [(TEXT, "done"), (BAD, "failed")])
    def test_killed_at_any_moment(self, served, placed, content, state):
        finish(submit(at := Jobs(), served, 1, ("a.txt", b"the ships carry rain")))
        at.close(60)
        (upload,) = receive(served, 2, ("a.txt", content))
        write_manifest(upload.path.parent, [IncomingFile(name="a.txt", path=upload.path, size=1)])
        target = served.folder / "files" / "a.txt"
        if placed != "received":
            target.rename(upload.path.with_name("0.old"))
        if placed == "placed":
            upload.path.rename(target)
        at = Jobs()
        at.resume(served)
        assert finish(at.get("job2")).state == state
        at.close(60)
        assert kept(served) == {"a.txt": content if state == "done" else b"the ships carry rain"}
        assert documents(served) == ["a.txt"]
        assert left(served) == []

    def test_what_had_not_arrived_whole_goes(self, served):
        receive(served, 1, ("a.txt", TEXT))
        for number, manifest in enumerate(
            ["", "[", "[]", "{}", '[{"name": 1}]', json.dumps([{"name": "../../x", "received": "0", "size": 1}]),
             json.dumps([{"name": "x", "received": "../../store.sqlite", "size": 1}])], start=2,
        ):  # fmt: skip
            (upload,) = receive(served, number, ("a.txt", TEXT))
            (upload.path.parent / "job.json").write_text(manifest)
            assert read_manifest(upload.path.parent) == []
        at = Jobs()
        at.resume(served)
        at.close(60)
        assert left(served) == []
        assert served.collection.exists

    def test_a_received_file_that_vanished_is_told(self, served):
        (upload,) = receive(served, 1, ("a.txt", TEXT))
        write_manifest(upload.path.parent, [IncomingFile(name="a.txt", path=upload.path, size=1)])
        upload.path.unlink()
        at = Jobs()
        at.resume(served)
        job = finish(at.get("job1"))
        at.close(60)
        assert "send it again" in job.files[0].error


class TestQueue:
    def test_small_uploads_are_taken_in_together_but_not_two_of_a_name(self, served, monkeypatch):
        portions, gate = [], threading.Event()

        def note(collection, files, check):
            gate.wait(10)
            portions.append([file.name for file in files])
            take_in(collection, files, check)

        monkeypatch.setattr(jobs, "take_in", note)
        at = Jobs()
        uploads = [("first", TEXT), *((f"{n}.txt", TEXT + b"%d" % n) for n in range(3)), ("0.TXT", b"wool " * 9)]
        submitted = [submit(at, served, number, upload) for number, upload in enumerate(uploads)]
        gate.set()
        for job in submitted:
            finish(job)
        at.close(60)
        assert portions == [["first"], ["0.txt", "1.txt", "2.txt"], ["0.TXT"]]

    def test_a_defect_ends_a_job_and_not_the_thread(self, served, monkeypatch):
        def break_down(*_):
            raise RuntimeError("private words")

        monkeypatch.setattr(Collection, "add", break_down)
        at = Jobs()
        job = finish(submit(at, served, 0, ("a.txt", TEXT)))
        assert job.state == "failed"
        assert "private" not in job.files[0].error
        assert kept(served) == {}
        monkeypatch.undo()
        assert finish(submit(at, served, 1, ("a.txt", TEXT))).state == "done"
        at.close(60)

    def test_a_full_disk_ends_no_thread(self, served, monkeypatch):
        def fail(*_, **__):
            raise OSError(28, "No space left on device")

        at, first, second = Jobs(), receive(served, 0, ("a.txt", TEXT)), receive(served, 1, ("b.txt", TEXT + b"b"))
        one = at.submit(served, first[0].path.parent, first)
        monkeypatch.setattr(intake, "atomic_file", fail)
        monkeypatch.setattr(intake.shutil, "rmtree", fail)
        finish(one)
        monkeypatch.undo()
        assert finish(at.submit(served, second[0].path.parent, second)).state == "done"
        at.close(60)

    def test_another_programs_lock_is_waited_for_and_then_told(self, served, monkeypatch):
        monkeypatch.setattr(intake, "_WAIT_S", 0.1)
        at = Jobs()
        with Collection.open(served.folder) as other, other._writing():
            job = finish(submit(at, served, 0, ("a.txt", TEXT)))
        at.close(60)
        assert "another process" in job.files[0].error
        assert kept(served) == {}
        assert left(served) == []

    def test_too_many_are_refused(self, served, monkeypatch):
        monkeypatch.setattr(jobs, "_MOST_WAITING", 1)
        at = Jobs()
        with pytest.raises(BusyError, match="waiting"):
            submit(at, served, 0, ("a.txt", TEXT), ("b.txt", TEXT))
        at.close(60)

    def test_ended_jobs_are_forgotten_some_day(self, served, monkeypatch):
        monkeypatch.setattr(jobs, "_REMEMBERED", 2)
        at = Jobs()
        for number in range(4):
            finish(submit(at, served, number, ("a.txt", TEXT)))
        at.close(60)
        assert len(at._jobs) == 2


def test_a_collection_is_deleted_while_files_are_taken_in(tmp_path, tiny_encoder):
    with open_library(tmp_path, tiny_encoder) as client:
        client.post("/api/collections", json={"name": "books"})
        files = [("files", (f"{n}.txt", TEXT * 200 + b"%d" % n)) for n in range(40)]
        job = client.post("/api/collections/books/documents", files=files).json()["job"]
        assert client.delete("/api/collections/books").status_code == 204
        told = client.get(f"/api/jobs/{job}").json()
        assert told["state"] in ("failed", "done")
        assert {file["state"] for file in told["files"]} <= {"failed", "added"}
        assert list((tmp_path / "collections").iterdir()) == []
        client.post("/api/collections", json={"name": "books"})
        send(client, "books", ("a.txt", TEXT))
        assert names(client, "books") == ["a.txt"]


class TestOverTheWire:
    def test_a_client_that_leaves_within_its_upload_leaves_nothing(self, url, service):
        where, incoming = urlsplit(url), service.collections["notes"].folder / INCOMING
        head = f"POST /api/collections/notes/documents HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 9999\r\n"
        head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        head += 'Content-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhalf of it'
        with socket.create_connection((where.hostname, where.port)) as leaving:
            leaving.sendall(head.encode())
            wait_until(lambda: incoming.is_dir() and any(incoming.rglob("0")))
        wait_until(lambda: not any(incoming.iterdir()))

    def test_a_body_without_end_is_refused(self, url):
        where = urlsplit(url)
        head = f"POST /api/collections HTTP/1.1\r\nHost: {where.netloc}\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection((where.hostname, where.port), timeout=30) as sending:
            sending.sendall(head.encode())
            answer = b""
            try:
                for _ in range(10_000):
                    sending.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            except OSError:
                pass
            while piece := _receive(sending):
                answer += piece
        assert not answer or answer.startswith(b"HTTP/1.1 413")

    def test_a_job_goes_on_when_its_client_has_left(self, url, service):
        files = {"files": ("left.txt", TEXT)}
        with httpx.Client(base_url=url) as client:
            assert client.post("/api/collections/notes/documents", files=files).status_code == 202
        wait_until(lambda: "left.txt" in [info.name for info in service.collections["notes"].collection.list()])
        assert httpx.delete(f"{url}/api/collections/notes/documents/left.txt").status_code == 204


def wait_until(happened) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _receive(sending: socket.socket) -> bytes:
    try:
        return sending.recv(65536)
    except OSError:
        return b""


def test_uploads_of_a_server_that_runs_are_left_to_it(served):
    first, second, third = Jobs(), Jobs(), Jobs()
    with first.receiving(served) as arriving:
        (arriving / "0").write_bytes(TEXT)
        second.resume(served)
        assert (arriving / "0").exists()
    first.close(30)
    second.resume(served)  # it had not arrived whole
    assert not arriving.exists()
    second.close(30)
    third.close(30)
    assert not [*served.folder.glob(".uploads-*")]


def test_uploads_of_a_server_that_died_are_taken_up_by_one(served, monkeypatch):
    dead, *others = Jobs(), Jobs(), Jobs()
    with monkeypatch.context() as patch:
        patch.setattr(dead, "_enqueue", lambda job: job)  # before it came to it
        with dead.receiving(served) as folder:
            (folder / "0").write_bytes(TEXT)
            dead.submit(served, folder, [Upload("a.txt", folder / "0", len(TEXT))])
    others[0].resume(served)
    assert not others[0]._jobs
    dead._ownership._held.close()  # as the kernel does
    for other in others:
        other.resume(served)
    assert [len(other._jobs) for other in others] == [1, 0]
    finish(others[0].get(folder.name))
    for each in (dead, *others):
        each.close(30)
    assert kept(served) == {"a.txt": TEXT}
    assert not [*served.folder.glob(".uploads-*")]


def test_what_was_stored_before_the_disk_was_full_is_kept(served, monkeypatch):
    def fill(self: Collection) -> None:
        raise ArrieroError("the index could not be written")

    at = Jobs()
    finish(submit(at, served, 1, ("a.txt", TEXT)))
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "_save_index", fill)
        job = finish(submit(at, served, 2, ("a.txt", TEXT * 2), ("b.txt", TEXT), ("c.pdf", BAD)))
    assert [file.state for file in job.files] == ["added", "added", "failed"]
    assert kept(served) == {"a.txt": TEXT * 2, "b.txt": TEXT}
    at.close(30)
