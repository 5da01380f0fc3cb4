"""Collections over HTTP: made, filled, listed, read, emptied; and attacked."""

import io
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from reportlab.pdfgen.canvas import Canvas

from arriero.parsers.document import Document, Section
from arriero.rag.collection import Collection
from arriero.rag.passage import Passage
from arriero.rag.store import FILE_NAME, DocumentRow
from tests.serve.library import names, open_library, send, wait

LUMO = b"The mayor of Lumo is Ada. Lumo lies by the sea. " * 5
HOSTILE = (
    "../../escape.txt", "/tmp/escape.txt", "..\\..\\escape.txt", "a\0/escape.txt", "....//escape.txt", "~/escape.txt",
    "%2e%2e%2fescape.txt", "C:\\escape.txt", ".incoming", "..", "\u202etxt.exe", "x" * 2000 + ".txt",
    "<img src=x onerror=alert(1)>.txt", "con.txt", "a\u0301.txt", " .txt", "job.json", "0", "store.sqlite",
)  # fmt: skip
FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\nx'


@pytest.fixture
def encoder(tiny_encoder) -> Path:
    return tiny_encoder


@pytest.fixture
def library(tmp_path, encoder):
    with open_library(tmp_path, encoder, max_upload_bytes=20_000) as client:
        assert client.post("/api/collections", json={"name": "books"}).status_code == 201
        yield client


def pdf(*pages: str) -> bytes:
    out = io.BytesIO()
    canvas = Canvas(out)
    for text in pages:
        for number, line in enumerate(text.split("\n")):
            canvas.drawString(50, 780 - 14 * number, line)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


class TestCollections:
    def test_one_is_made_listed_and_deleted(self, library, tmp_path):
        assert library.get("/api/collections").json() == [{"name": "books", "documents": 0, "passages": 0}]
        send(library, "books", ("lumo.txt", LUMO))
        assert library.get("/api/collections").json()[0]["documents"] == 1
        assert library.delete("/api/collections/books").status_code == 204
        assert library.get("/api/collections").json() == []
        assert list((tmp_path / "collections").iterdir()) == []
        assert library.get("/api/collections/books/documents").status_code == 404

    def test_names_of_any_script_are_taken(self, library):
        for name in ("andes", "Años 2024", "文件", "v1.2_b-c", "a"):
            assert library.post("/api/collections", json={"name": name}).status_code == 201
            assert library.get(f"/api/collections/{name}/documents").json() == []

    def test_others_are_refused_by_field(self, library, tmp_path):
        for name in (
            "", ".", "..", "../x", "a/b", "a\\b", "/etc", ".hidden", "a\0b", "a\nb", "x" * 61, "<b>", "a.", "\u202ea",
            "a\u200bb", "-rf", "界" * 60 + "x",
        ):  # fmt: skip
            answer = library.post("/api/collections", json={"name": name})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "name"
        assert [path.name for path in (tmp_path / "collections").iterdir()] == ["books"]

    def test_a_name_is_given_once(self, library):
        for name in ("books", "Books", " books "):
            assert library.post("/api/collections", json={"name": name}).status_code == 409

    def test_unknown_fields_and_collections_are_told(self, library):
        assert library.post("/api/collections", json={"name": "a", "path": "/"}).json()["error"]["param"] == "path"
        assert "did you mean books" in library.get("/api/collections/bocks/documents").json()["error"]["message"]
        assert library.delete("/api/collections/..%2f..").status_code == 404

    def test_the_server_finds_its_collections_again(self, library, tmp_path, encoder):
        send(library, "books", ("lumo.txt", LUMO))
        with open_library(tmp_path, encoder) as other:
            assert names(other, "books") == ["lumo.txt"]

    def test_what_another_program_makes_and_deletes_is_seen_without_a_restart(self, library, tmp_path, encoder):
        (tmp_path / "collections" / "no collection").mkdir()
        for name in ("asked", "listed"):
            with Collection.open(tmp_path / "collections" / name, encoder) as other:
                other.add_documents([Document("lumo.txt", (Section(LUMO.decode()),))])
            if name == "asked":
                assert names(library, "asked") == ["lumo.txt"]
        assert [row["name"] for row in library.get("/api/collections").json()] == ["asked", "books", "listed"]
        shutil.rmtree(tmp_path / "collections" / "asked")
        assert [row["name"] for row in library.get("/api/collections").json()] == ["books", "listed"]

    def test_one_that_is_being_deleted_is_not_found_again(self, library, monkeypatch):
        def wait(*_args: object) -> None:
            assert library.get("/api/collections").json() == []
            assert library.get("/api/collections/books/documents").status_code == 404

        monkeypatch.setattr("arriero.serve.jobs.Jobs.cancel", wait)
        assert library.delete("/api/collections/books").status_code == 204
        assert library.app.state.service.leaving == set()

    def test_a_collection_of_the_users_own_is_not_deleted(self, tmp_path, encoder):
        (tmp_path / "mine.txt").write_bytes(LUMO)
        with Collection.open(tmp_path / "mine", encoder) as own:
            own.add(tmp_path / "mine.txt")
        with open_library(tmp_path, encoder, documents={"mine": tmp_path / "mine"}) as client:
            assert client.delete("/api/collections/mine").status_code == 403
            assert client.delete("/api/collections/mine/documents/mine.txt").status_code == 204
            assert names(client, "mine") == []
        assert (tmp_path / "mine.txt").read_bytes() == LUMO

    def test_an_encoder_that_is_not_there_leaves_nothing_behind(self, tmp_path):
        with open_library(tmp_path, tmp_path / "nowhere") as client:
            answer = client.post("/api/collections", json={"name": "books"})
            assert answer.status_code in (400, 404)
            assert client.get("/api/collections").json() == []
        assert list((tmp_path / "collections").iterdir()) == []


class TestUpload:
    def test_each_file_is_told_of(self, library):
        told = send(library, "books", ("lumo.txt", LUMO), ("broken.pdf", b"%PDF-1.4 nothing"), ("empty.txt", b""))
        assert told["state"] == "done"
        assert (told["done"], told["total"], told["share"]) == (3, 3, 1.0)
        assert [file["state"] for file in told["files"]] == ["added", "failed", "failed"]
        assert "empty file" in told["files"][2]["error"]
        assert names(library, "books") == ["lumo.txt"]
        assert send(library, "books", ("image.png", b"\x89PNG\r\n"))["state"] == "failed"

    def test_a_list_tells_all_about_a_document(self, library):
        send(library, "books", ("two.pdf", pdf("The mayor of Lumo.", "The mayor of Nera.")))
        (document,) = library.get("/api/collections/books/documents").json()
        assert document["name"] == "two.pdf"
        assert document["pages"] == 2
        assert document["bytes"] > 500
        assert document["passages"] >= 1
        assert document["metadata"]["format"] == "pdf"
        assert document["added"].endswith("Z")

    def test_the_same_name_replaces_and_the_same_bytes_do_nothing(self, library, tmp_path):
        assert send(library, "books", ("a.txt", LUMO))["files"][0]["state"] == "added"
        assert send(library, "books", ("a.txt", LUMO))["files"][0]["state"] == "unchanged"
        assert send(library, "books", ("a.txt", b"The mayor of Nera is Bo."))["files"][0]["state"] == "added"
        assert names(library, "books") == ["a.txt"]
        assert (tmp_path / "collections/books/files/a.txt").read_bytes() == b"The mayor of Nera is Bo."

    def test_an_earlier_version_stays_where_the_new_one_cannot_be_read(self, library, tmp_path):
        send(library, "books", ("a.pdf", pdf("The mayor of Lumo.")))
        kept = tmp_path / "collections/books/files/a.pdf"
        before = kept.read_bytes()
        told = send(library, "books", ("a.pdf", b"%PDF-1.4 nothing"))
        assert told["files"][0]["state"] == "failed"
        assert "earlier version stays" in told["files"][0]["error"]
        assert kept.read_bytes() == before
        assert names(library, "books") == ["a.pdf"]
        assert sorted(path.name for path in kept.parent.iterdir()) == [".incoming", "a.pdf"]

    def test_what_failed_is_forgotten(self, library, tmp_path):
        send(library, "books", ("bad.pdf", b"%PDF-1.4 nothing"))
        assert not (tmp_path / "collections/books/files/bad.pdf").exists()
        with Collection.open(tmp_path / "collections/books") as collection:
            assert collection.sources() == {}
            assert collection.update().failed == []

    def test_two_files_of_one_name_are_both_kept(self, library):
        told = send(library, "books", ("a/readme.md", LUMO), ("b/readme.md", b"Nera " * 9), ("README.md", b"Tiva " * 9))
        assert [file["name"] for file in told["files"]] == ["readme.md", "readme (2).md", "README (3).md"]
        assert len(names(library, "books")) == 3

    def test_no_name_leads_out_of_the_folder(self, library, tmp_path):
        form = b"".join(
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\n\r\n%b%d\r\n'
            % (name.encode("utf-8", "surrogatepass").replace(b'"', b"%22"), LUMO, number)
            for number, name in enumerate(HOSTILE)
        )
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = library.post("/api/collections/books/documents", content=form + b"--b--\r\n", headers=headers)
        files = wait(library, answer.json()["job"])["files"]
        assert [file["state"] for file in files] == ["added"] * len(HOSTILE), files
        assert sorted(file["name"] for file in files) == names(library, "books")
        assert sorted(path.name for path in (tmp_path / "collections/books/files").glob("[!.]*")) == names(
            library, "books"
        )
        elsewhere = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "files"]
        assert not [path for path in elsewhere if path.read_bytes().startswith(LUMO)]
        assert not Path("/tmp/escape.txt").exists()

    def test_html_in_names_and_text_stays_text(self, library):
        name = "<script>alert(1)</script>.md"
        send(library, "books", (name.replace("/", "_"), b"# <img src=x onerror=alert(1)>\n\nLumo " * 3))
        answer = library.get("/api/collections/books/documents")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.json()[0]["name"] == "<script>alert(1)<_script>.md"

    def test_a_large_file_is_refused_and_leaves_nothing(self, library, tmp_path):
        answer = library.post("/api/collections/books/documents", files=[("files", ("big.txt", b"x" * 20_001))])
        assert answer.status_code == 413
        assert "20,000 bytes" in answer.json()["error"]["message"]
        many = [("files", (f"{n}.txt", b"x" * 19_000)) for n in range(20)]
        assert library.post("/api/collections/books/documents", files=many).status_code == 413
        many = [("files", (f"{n}.txt", b"x")) for n in range(1001)]
        assert library.post("/api/collections/books/documents", files=many).status_code == 413
        assert [path for path in (tmp_path / "collections/books/files").rglob("*") if path.is_file()] == []

    def test_a_form_that_is_none_is_refused(self, library, tmp_path):
        for kind, body in (
            ("application/json", b"{}"),
            ("", b"x"),
            ("multipart/form-data", b"x"),
            (FORM, b""),
            (FORM, b"no boundary at all"),
            (FORM, b"--b--\r\n"),
            (FORM, PART % (b"files", b"") + b"\r\n--b--"),
            (FORM, PART % (b"files", b'; filename=""') + b"\r\n--b--"),
            (FORM, PART % (b"files", b'; filename="a"')),
            (FORM, PART % (b"other", b'; filename="a"') + b"\r\n--b--"),
            (FORM, b"--b\r\n" + b"X: y\r\n" * 1000 + b"\r\nx\r\n--b--"),
            (FORM, b"--b\r\n\r\nx\r\n--b--"),
            ("multipart/form-data; boundary=" + "b" * 5000, b"x"),
        ):
            answer = library.post("/api/collections/books/documents", content=body, headers={"Content-Type": kind})
            assert answer.status_code == 400, (kind, body)
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert list((tmp_path / "collections/books/files").rglob("*/*")) == []

    def test_unknown_jobs_are_told(self, library):
        assert library.get("/api/jobs/nothing").status_code == 404


class TestDelete:
    def test_a_document_goes_with_its_file(self, library, tmp_path):
        send(library, "books", ("a b?.txt", LUMO), ("b.txt", b"Nera " * 9))
        assert library.delete("/api/collections/books/documents/a%20b%3F.txt").status_code == 204
        assert names(library, "books") == ["b.txt"]
        assert not (tmp_path / "collections/books/files/a b?.txt").exists()
        assert library.delete("/api/collections/books/documents/a%20b%3F.txt").status_code == 404

    def test_a_path_is_no_name(self, library, tmp_path):
        send(library, "books", ("a.txt", LUMO))
        kept = tmp_path / "collections/books/files"
        for path in (str(kept), str(kept / "a.txt"), ".", "..%2F..", "%2F", "files/a.txt", os.path.relpath(kept)):
            assert library.delete(f"/api/collections/books/documents/{path}").status_code in (404, 405)
        assert names(library, "books") == ["a.txt"]

    def test_documents_of_other_folders_are_named_by_their_path(self, tmp_path, encoder):
        (tmp_path / "docs" / "sub").mkdir(parents=True)
        (tmp_path / "docs" / "sub" / "a.txt").write_bytes(LUMO)
        with Collection.open(tmp_path / "collections" / "mine", encoder) as collection:
            collection.add(tmp_path / "docs")
        with open_library(tmp_path, encoder) as client:
            assert names(client, "mine") == ["docs/sub/a.txt"]
            assert client.delete("/api/collections/mine/documents/docs/sub/a.txt").status_code == 204
            assert names(client, "mine") == []
        assert (tmp_path / "docs" / "sub" / "a.txt").exists()


class TestPassages:
    def test_a_passage_is_found_in_its_page(self, library):
        pages = ["\n".join(f"Page {page} line {line} tells of Lumo 🦙." for line in range(30)) for page in (1, 2, 3)]
        send(library, "books", ("three.pdf", pdf(*pages)))
        seen = set()
        for number in range(1, 30):
            answer = library.get(f"/api/collections/books/passages/{number}")
            if answer.status_code == 404:
                break
            told = answer.json()
            assert told["document"] == "three.pdf"
            assert told["page_text"][told["start"] : told["end"]] == told["text"]
            assert f"Page {told['page']} line 29" in told["page_text"]
            seen.add(told["page"])
        assert seen == {1, 2, 3}

    def test_where_there_are_no_pages_the_text_around_is_shown(self, library):
        text = " ".join(f"Sentence {number} tells of Lumo." for number in range(3000))
        send(library, "books", ("long.txt", text.encode()[:19_999]))
        told = library.get("/api/collections/books/passages/12").json()
        assert told["page"] is None
        assert told["page_text"][told["start"] : told["end"]] == told["text"]
        assert 2000 < told["start"] <= 3000
        assert told["page_text"] in text

    def test_others_are_refused(self, library):
        for number in ("0", "999", "-1", str(2**63), "9" * 5000, "x", "1.5"):
            assert library.get(f"/api/collections/books/passages/{number}").status_code in (400, 404)


def test_an_error_names_the_collection_and_not_its_folder(tmp_path, encoder):
    for name in ("books", "book"):
        (tmp_path / "collections" / name).mkdir(parents=True)
        (tmp_path / "collections" / name / FILE_NAME).write_bytes(b"no database" * 99)
    with Collection.open(tmp_path / "collections" / "good", encoder) as collection:
        collection.add([])
    with open_library(tmp_path, encoder) as client:
        answer = client.get("/api/collections/books/documents")
        assert (answer.status_code, answer.json()["error"]["message"].partition(" (")[0]) == (
            400, "the collection 'books' is damaged or no SQLite file"
        )  # fmt: skip
        listed = client.get("/api/collections").json()
        assert [row["name"] for row in listed if "error" not in row] == ["good"]
        assert str(tmp_path) not in str(listed)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_full_disk_is_told_as_such_when_a_document_is_to_go(library, tmp_path, monkeypatch, indexed):
    send(library, "books", ("lumo.txt", LUMO))

    def full(*_args: object, **_named: object) -> None:
        if indexed:
            raise OSError(28, "No space left on device")
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("arriero.rag.index.FaissIndex.save" if indexed else "arriero.rag.store.Store.delete", full)
        answer = library.delete("/api/collections/books/documents/lumo.txt")
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage")
    assert str(tmp_path) not in answer.text
    kept = tmp_path / "collections" / "books" / "files" / "lumo.txt"
    assert (names(library, "books"), kept.exists()) == (([], False) if indexed else (["lumo.txt"], True))


def test_ten_thousand_documents_are_listed(tmp_path, encoder):
    with Collection.open(tmp_path / "collections" / "many", encoder) as collection:
        collection.add([])
        same = {"location": None, "content_hash": "", "chunking": "", "characters": 4, "metadata": {}, "given": {}}
        cut = {"text": "Lumo", "start": 0, "end": 4, "page": 7, "page_end": 7, "section": None, "ordinal": 0}
        with collection.store.write():
            for number in range(10_000):
                row = DocumentRow(name=f"{number:05} <b>.txt", **same)
                collection.store.replace(row, [Passage(document=row.name, **cut)], np.zeros((1, 16), np.float32))
    with open_library(tmp_path, encoder) as client:
        listed = client.get("/api/collections/many/documents").json()
        assert [document["pages"] for document in listed] == [7] * 10_000
        assert client.get("/api/collections").json() == [{"name": "many", "documents": 10_000, "passages": 10_000}]


def test_two_writers_at_once_lose_nothing(library, tmp_path):
    told = []

    def upload(writer: int) -> None:
        for number in range(4):
            told.append(send(library, "books", (f"{writer}-{number}.txt", LUMO + str(number).encode())))

    writers = [threading.Thread(target=upload, args=(writer,)) for writer in range(3)]
    for writer in writers:
        writer.start()
    (tmp_path / "other.txt").write_bytes(LUMO)
    with Collection.open(tmp_path / "collections/books") as other:  # another program
        other.add(tmp_path / "other.txt")
    for writer in writers:
        writer.join()
    assert {job["state"] for job in told} == {"done"}
    assert len(names(library, "books")) == 13
    with Collection.open(tmp_path / "collections/books") as collection:
        assert collection.store.verify() == []
