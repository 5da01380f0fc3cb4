"""The collection as the commands use it: idempotent, movable, and plain about what it refuses."""

import os
import shutil
from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.parsers.document import Document, Section
from arriero.rag.chunk import ChunkConfig
from arriero.rag.collection import Collection


def listed(collection: Collection) -> list[str]:
    return [info.name for info in collection.list()]


def test_add_update_remove_list(collection: Collection, docs: Path) -> None:
    report = collection.add([docs])
    assert report.added == ["docs/bread.txt", "docs/llamas.txt", "docs/sub/stars.md"]
    assert report.failed == []
    assert listed(collection) == report.added
    assert report.passages == sum(info.passages for info in collection.list())
    assert collection.search("wool of llamas", k=1)[0].passage.document == "docs/llamas.txt"
    assert collection.remove("docs/bread.txt") == ["docs/bread.txt"]
    assert listed(collection) == ["docs/llamas.txt", "docs/sub/stars.md"]
    assert collection.store.verify() == []


def test_unchanged_files_embed_nothing(collection: Collection, docs: Path, encoder) -> None:
    collection.add([docs])
    encoder.encoded.clear()
    for report in (collection.add([docs]), collection.update(), collection.add([docs / "bread.txt"])):
        assert (report.added, report.updated, report.encoded) == ([], [], 0)
    assert encoder.encoded == []
    os.utime(docs / "bread.txt")
    assert collection.update().updated == []


def test_changed_files_are_replaced_whole(collection: Collection, docs: Path, write_file) -> None:
    collection.add([docs])
    write_file(docs / "bread.txt", "Rye is another matter.")
    report = collection.update()
    assert (report.updated, len(report.unchanged)) == (["docs/bread.txt"], 2)
    found = collection.search("bread flour oven rye", k=50)
    assert [hit.passage.text for hit in found if hit.passage.document == "docs/bread.txt"] == ["Rye is another matter."]
    assert collection.store.verify() == []


def test_what_a_change_left_alone_is_not_encoded_again(
    collection: Collection, tmp_path: Path, encoder, write_file
) -> None:
    words = [f"word{number}" for number in range(200)]
    path = write_file(tmp_path / "long.txt", " ".join(words))
    collection.add(path)
    encoder.encoded.clear()
    words[199] = "changed"
    write_file(path, " ".join(words))
    report = collection.update()
    assert (report.updated, report.passages, report.encoded) == (["long.txt"], 10, 1)
    assert len(encoder.encoded) == 1


def test_vanished_files_are_removed_on_update(collection: Collection, docs: Path) -> None:
    collection.add([docs])
    (docs / "bread.txt").unlink()
    assert collection.update().removed == ["docs/bread.txt"]
    assert "docs/bread.txt" not in listed(collection)


def test_a_source_that_is_away_keeps_its_documents(collection: Collection, docs: Path, tmp_path: Path) -> None:
    collection.add([docs])
    docs.rename(tmp_path / "elsewhere")
    report = collection.update()
    assert report.removed == []
    assert len(listed(collection)) == 3
    assert "not found" in report.failed[0][1]
    (tmp_path / "elsewhere").rename(docs)
    assert len(collection.update().unchanged) == 3


def test_new_files_of_a_folder_come_with_update(collection: Collection, docs: Path, write_file) -> None:
    collection.add([docs])
    write_file(docs / "new.txt", "Brand new text.")
    assert collection.update().added == ["docs/new.txt"]


def test_what_was_removed_stays_removed_until_added_again(collection: Collection, docs: Path) -> None:
    collection.add([docs])
    collection.remove(docs / "bread.txt")
    assert collection.update().added == []
    assert collection.add([docs]).added == ["docs/bread.txt"]
    collection.remove(docs)
    assert listed(collection) == []
    assert collection.update().added == []
    assert collection.sources() == {}


def test_one_bad_file_is_reported_and_skipped(collection: Collection, docs: Path, write_file) -> None:
    write_file(docs / "broken.pdf", "%PDF-1.7 and nothing of the kind")
    report = collection.add([docs])
    assert len(report.added) == 3
    ((path, reason),) = report.failed
    assert path.endswith("broken.pdf")
    assert reason
    assert "\n" not in reason


def test_what_no_parser_reads_is_counted(collection: Collection, docs: Path, write_file) -> None:
    write_file(docs / "photo.heic", "x")
    write_file(docs / "photo2.heic", "x")
    assert collection.add(docs).skipped[".heic"] == 2
    assert collection.update().skipped[".heic"] == 2


def test_a_collection_without_documents_finds_nothing(collection: Collection, tmp_path: Path, write_file) -> None:
    assert collection.add(write_file(tmp_path / "empty.txt", "")).failed
    for mode in ("hybrid", "dense", "bm25"):
        assert collection.search("anything", mode=mode) == []
    assert collection.list() == []


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, encoder, docs: Path, write_file) -> None:
    write_file(tmp_path / "file", "x")
    with (
        Collection.open(tmp_path / "file" / "collection", encoder) as collection,
        pytest.raises(ArrieroError, match="cannot be written"),
    ):
        collection.add(docs)


def test_a_file_that_goes_bad_keeps_its_earlier_version(collection: Collection, docs: Path) -> None:
    collection.add([docs])
    (docs / "bread.txt").write_bytes(b"")
    report = collection.update()
    assert report.failed[0][1].endswith("its earlier version stays")
    assert "docs/bread.txt" in listed(collection)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_reported(collection: Collection, docs: Path) -> None:
    (docs / "bread.txt").chmod(0)
    assert "Permission denied" in collection.add([docs]).failed[0][1]


def test_same_content_under_two_names(collection: Collection, tmp_path: Path, write_file) -> None:
    write_file(tmp_path / "one.txt", "The same text twice.")
    write_file(tmp_path / "two.txt", "The same text twice.")
    collection.add([tmp_path / "one.txt", tmp_path / "two.txt"])
    assert [hit.passage.document for hit in collection.search("same text")] == ["one.txt", "two.txt"]


def test_two_files_of_one_name(collection: Collection, tmp_path: Path, write_file) -> None:
    first = write_file(tmp_path / "a" / "report.txt", "About bridges.")
    second = write_file(tmp_path / "b" / "report.txt", "About tunnels.")
    third = write_file(tmp_path / "c" / "b" / "report.txt", "About ferries.")
    collection.add(first)
    collection.add([second, third])
    assert listed(collection) == ["b/report.txt", "c/b/report.txt", "report.txt"]
    assert collection.search("tunnels", k=1)[0].passage.document == "b/report.txt"
    assert len(collection.update().unchanged) == 3


def test_a_file_is_one_document_however_it_is_named(collection: Collection, docs: Path, monkeypatch) -> None:
    collection.add(docs / "bread.txt")
    monkeypatch.chdir(docs)
    report = collection.add(["bread.txt", "./bread.txt", "../docs/bread.txt", "."])
    assert (report.unchanged, len(report.added)) == (["bread.txt"], 2)


@pytest.mark.parametrize(
    "name", ["naïve café.txt", "你好.txt", "e\u0301.txt", "😀 .txt", "two\nlines.txt", "a'b\"c.txt", "%s{}.txt"]
)
def test_odd_names(collection: Collection, tmp_path: Path, write_file, name: str) -> None:
    write_file(tmp_path / "in" / name, "Some text.")
    (called,) = collection.add(tmp_path / "in").added
    assert "\n" not in called
    assert collection.update().unchanged == [called]
    assert collection.remove(called) == [called]


def test_names_that_are_no_unicode(collection: Collection, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    try:
        for name in (b"caf\xe9.txt", b"caf\\xe9.txt"):
            Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("Some text.")
    except OSError:
        pytest.skip("the file system wants Unicode names")
    report = collection.add(folder)
    assert len(set(report.added)) == 2
    assert len(collection.update().unchanged) == 2


def test_composed_and_decomposed_names_are_one(collection: Collection, tmp_path: Path, write_file) -> None:
    write_file(tmp_path / "cafe\u0301.txt", "Some text.")
    collection.add(tmp_path / "cafe\u0301.txt")
    assert len(collection.remove("caf\u00e9.txt")) == 1


def test_metadata_of_the_user_is_kept_and_filters(collection: Collection, docs: Path, encoder, write_file) -> None:
    collection.add(docs / "bread.txt", metadata={"team": "kitchen"})
    collection.add(docs)
    write_file(docs / "bread.txt", "Rye is another matter.")
    collection.update()
    assert [hit.passage.text for hit in collection.search("anything", filters={"team": "kitchen"})] == [
        "Rye is another matter."
    ]
    encoder.encoded.clear()
    collection.add(docs, metadata={"team": "all"})
    assert encoder.encoded == []
    assert {info.metadata["team"] for info in collection.list()} == {"all"}


def test_moving_the_folder(tmp_path: Path, encoder, docs: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    docs.rename(home / "docs")
    with Collection.open(home / "collection", encoder) as collection:
        collection.add(home / "docs")
    for path in (home / "collection").iterdir():
        assert os.fsencode(tmp_path) not in path.read_bytes()
    shutil.move(home, tmp_path / "moved")
    with Collection.open(tmp_path / "moved" / "collection", encoder) as collection:
        assert collection.search("llamas", k=1)[0].passage.document == "docs/llamas.txt"
        assert len(collection.update().unchanged) == 3


def test_another_encoder_is_an_error_that_names_both(collection: Collection, docs: Path, other_encoder) -> None:
    collection.add(docs)
    with Collection.open(collection.folder, other_encoder) as other:
        for attempt in (lambda: other.search("x"), lambda: other.add(docs / "bread.txt")):
            with pytest.raises(ArrieroError, match=r"'words'.*'other words'"):
                attempt()
    assert collection.search("llamas")


def test_another_way_of_cutting_cuts_again(collection: Collection, docs: Path, encoder) -> None:
    collection.add(docs)
    with Collection.open(collection.folder, encoder, chunk=ChunkConfig(words=5)) as finer:
        assert len(finer.update().updated) == 3
    with Collection.open(collection.folder, encoder) as again:
        assert again.chunk == ChunkConfig(words=5)
        assert len(again.update().unchanged) == 3


def test_nothing_is_made_before_something_is_added(tmp_path: Path, encoder) -> None:
    with Collection.open(tmp_path / "none", encoder) as collection:
        for attempt in (
            collection.list,
            collection.update,
            lambda: collection.search("x"),
            lambda: collection.remove("x"),
        ):
            with pytest.raises(NotFoundError, match="no collection"):
                attempt()
        with pytest.raises(NotFoundError, match="does not exist"):
            collection.add(tmp_path / "absent.txt")
    assert not (tmp_path / "none").exists()


def test_names_that_are_missing_suggest_the_nearest(collection: Collection, docs: Path) -> None:
    collection.add(docs)
    with pytest.raises(NotFoundError, match=r"did you mean docs/bread\.txt"):
        collection.remove("docs/bred.txt")
    with pytest.raises(NotFoundError, match="no document"):
        collection.remove(["docs/bread.txt", "nonsense"])
    assert len(listed(collection)) == 3
    with pytest.raises(NotFoundError, match="did you mean"):
        collection.add(docs / "bred.txt")


def test_progress_is_told_and_ends_at_the_total(collection: Collection, docs: Path) -> None:
    seen = []
    collection.add(docs, seen.append)
    shares = [moment.share for moment in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    last = seen[-1]
    assert (last.files_done, last.files_total) == (3, 3)
    assert last.passages_done == last.passages_found > 0


def test_texts_that_are_no_files(collection: Collection, docs: Path) -> None:
    documents = [Document("topic", (Section("About lambda."), Section("About if.", page=2)), {"lang": "en"})]
    assert collection.add_documents(documents).added == ["topic"]
    assert collection.add_documents(documents).unchanged == ["topic"]
    changed = [Document("topic", (Section("About while."),))]
    assert collection.add_documents(changed).updated == ["topic"]
    collection.add(docs)
    assert collection.update().removed == []
    report = collection.add_documents([Document("docs/bread.txt", (Section("x"),)), Document("empty", ())])
    assert [name for name, _ in report.failed] == ["docs/bread.txt", "empty"]
    assert collection.remove("topic") == ["topic"]


@pytest.mark.parametrize("name", ["", "  ", "\n"])
def test_an_empty_name_removes_nothing(collection: Collection, docs: Path, monkeypatch, name) -> None:
    monkeypatch.chdir(docs.parent)
    collection.add([docs])
    with pytest.raises(ArrieroError, match="name is empty"):
        collection.remove(name)
    assert len(listed(collection)) == 3


def test_more_passages_may_be_asked_for_than_any_number_of_bits_holds(collection: Collection, docs: Path) -> None:
    collection.add([docs])
    assert len(collection.search("wool", k=10**30)) == collection.store.passage_count()


def test_a_file_that_crashes_its_parser_is_reported_and_the_rest_is_read(
    collection: Collection, docs: Path, monkeypatch
) -> None:
    from arriero.common.errors import FormatError
    from arriero.parsers.isolation import ParserProcess

    parse = ParserProcess.parse

    def crash(self, path: Path, **more):
        if path.name == "bread.txt":
            raise FormatError("bread.txt: broken file: its parser crashed (SIGSEGV)")
        return parse(self, path, **more)

    monkeypatch.setattr(ParserProcess, "parse", crash)
    report = collection.add([docs])
    assert len(report.added) == 2
    assert "crashed" in report.failed[0][1]
