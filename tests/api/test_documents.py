"""Documents in Python are the collection of the commands."""

import json
from pathlib import Path

import pytest

from arriero import AnswerConfig, Documents, Model, SamplingConfig
from arriero.common.errors import NotFoundError

ANY = AnswerConfig(threshold=-1, sampling=SamplingConfig(max_tokens=6))
"""Answers whatever is found: the encoder's weights are random."""


@pytest.fixture
def notes(tmp_path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "llamas.txt").write_text("Llamas carry wool over the mountains.")
    (folder / "rain.md").write_text("The rain falls on ships.")
    return folder


@pytest.fixture
def documents(notes, tiny_encoder):
    with Documents(notes, encoder=tiny_encoder) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model.load(tiny_model)


def names(documents: Documents) -> list[str]:
    return [document.name for document in documents]


def test_a_folder_is_read_once_and_followed(documents, notes, tiny_encoder):
    assert len(documents) == 2
    assert names(documents) == ["notes/llamas.txt", "notes/rain.md"]
    (notes / "rain.md").unlink()
    (notes / "new.txt").write_text("Ships carry llamas.")
    with Documents(notes) as again:
        assert again.report.unchanged == ["notes/llamas.txt"]
        assert again.report.added == ["notes/new.txt"]
        assert again.report.removed == ["notes/rain.md"]
        assert again.report.encoded == 1


def test_what_was_removed_stays_away(documents, notes):
    assert documents.remove("notes/rain.md") == ["notes/rain.md"]
    with Documents(notes) as again:
        assert names(again) == ["notes/llamas.txt"]


def test_the_commands_find_the_same_collection(run, documents, notes, monkeypatch):
    monkeypatch.chdir(notes)
    assert [info["name"] for info in json.loads(run("rag", "list", "--json").out)] == names(documents)
    (notes / "new.txt").write_text("Ships carry llamas.")
    assert run("rag", "add", "new.txt").code == 0
    assert len(documents) == 3
    with Documents.open() as opened, Documents(notes / ".arriero" / "documents") as named:
        assert names(opened) == names(named) == names(documents)


def test_a_collection_is_made_by_what_is_added(tmp_path, notes, tiny_encoder):
    with Documents.open(tmp_path / "mine", encoder=tiny_encoder) as documents:
        assert (len(documents), list(documents)) == (0, [])
        with pytest.raises(NotFoundError, match="no collection"):
            documents.ask("x")
        assert documents.add(notes, metadata={"year": "2026"}).added == ["notes/llamas.txt", "notes/rain.md"]
        (notes / "rain.md").write_text("The rain falls.")
        assert documents.update().updated == ["notes/rain.md"]
        hits = documents.search("wool", k=1, mode="bm25", filters={"year": "2026"})
        assert [hit.passage.document for hit in hits] == ["notes/llamas.txt"]
        assert "2 of them" in repr(documents)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(NotFoundError, match=r"no folder .*nots.*Documents\.open"):
        Documents(tmp_path / "nots")


def test_an_answer_is_what_the_command_gives(run, documents, notes, model, tiny_model):
    answer = documents.ask("llamas carry wool", ANY, model=model)
    flags = ("--collection", notes / ".arriero" / "documents", "--model", tiny_model, "--threshold", "-1")
    out = run("rag", "ask", "llamas carry wool", *flags, "--max-tokens", "6", "--json").out
    assert json.loads(json.dumps(answer.to_dict())) == json.loads(out)
    told = run("rag", "ask", "llamas carry wool", *flags, "--max-tokens", "6").out
    assert all(hit.passage.text in told and hit.passage.text in str(answer) for hit in answer.passages)
    *pieces, last = documents.ask("llamas carry wool", ANY, model=str(tiny_model), stream=True)
    assert last == answer
    assert "".join(pieces) == answer.text


def test_a_model_with_an_adapter_answers_with_it(documents, model, tiny_model, tmp_path):
    from tests.api.test_model import make_adapter

    folder = make_adapter(tiny_model, tmp_path / "adapter", 1)
    merged = documents.ask("llamas", ANY, model=Model.load(tiny_model, adapter=folder)).text
    assert documents.ask("llamas", ANY, model=model.with_adapter(folder)).text == merged
    assert documents.ask("llamas", ANY, model=model).text != merged


def test_a_refusal_is_no_part_of_the_talk(documents, model):
    refused = documents.ask("llamas", AnswerConfig(threshold=1e9), model=model)
    assert refused.refused
    assert str(refused) == refused.text
    alone = documents.ask("ships", ANY, model=model)
    assert documents.ask("ships", ANY, model=model, history=[refused]) == alone
    assert documents.ask("ships", ANY, model=model, history=[alone]).prompt_tokens >= alone.prompt_tokens
