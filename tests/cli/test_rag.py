"""`arriero rag add|update|remove|list|search|watch|ask`: one collection from files to answers, and bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "llamas.md").write_text("# Llamas\n\nLlamas carry wool over the mountains of Peru.\n")
    (folder / "ships.txt").write_text("Ships carry wool over the sea.\n")
    return folder


@pytest.fixture
def on(tmp_path: Path, tiny_encoder: Path) -> tuple[str, ...]:
    """The options that name the collection."""
    return ("--collection", str(tmp_path / "collection"), "--encoder", str(tiny_encoder))


@pytest.fixture
def filled(run, docs, on) -> tuple[str, ...]:
    assert run("rag", "add", docs, *on).code == 0
    return on


def names(run, on) -> list[str]:
    return [Path(item["name"]).name for item in json.loads(run("rag", "list", *on, "--json").out)]


def test_files_come_in_once(run, docs, on):
    first = json.loads(run("rag", "add", docs, *on, "--json").out)
    again = json.loads(run("rag", "add", docs, *on, "--json").out)
    assert (len(first["added"]), first["encoded"], first["failed"]) == (2, 2, [])
    assert (again["added"], len(again["unchanged"]), again["encoded"]) == ([], 2, 0)
    assert sorted(names(run, on)) == ["llamas.md", "ships.txt"]


def test_the_report_is_one_line_for_people(run, docs, on):
    assert run("rag", "add", docs, *on).out == "2 added; 2 of 2 passages encoded\n"
    assert run("rag", "update", *on).out == "2 unchanged; 0 of 0 passages encoded\n"


def test_update_follows_the_files(run, docs, filled):
    (docs / "ships.txt").unlink()
    (docs / "rain.txt").write_text("The rain falls.")
    report = json.loads(run("rag", "update", *filled, "--json").out)
    assert (len(report["added"]), len(report["removed"]), len(report["unchanged"])) == (1, 1, 1)
    assert sorted(names(run, filled)) == ["llamas.md", "rain.txt"]


def test_removed_documents_stay_away(run, docs, filled):
    assert run("rag", "remove", docs / "ships.txt", *filled).out == "1 removed\n"
    run("rag", "update", *filled)
    assert names(run, filled) == ["llamas.md"]


def test_the_list_for_people(run, filled):
    out = run("rag", "list", *filled).out
    assert out.splitlines()[0].split()[:2] == ["document", "passages"]
    assert "llamas.md" in out


def test_search_finds_words(run, filled):
    (hit,) = json.loads(run("rag", "search", "Peru", *filled, "--mode", "bm25", "--json").out)
    assert hit["document"].endswith("llamas.md")
    assert hit["section"] == "Llamas"
    out = run("rag", "search", "wool", *filled, "--k", "1").out
    assert out.startswith("[1] ")


def test_metadata_filters(run, docs, on):
    run("rag", "add", docs / "llamas.md", *on, "--meta", "kind=animal")
    run("rag", "add", docs / "ships.txt", *on, "--meta", "kind=thing")
    hits = json.loads(run("rag", "search", "wool", *on, "--filter", "kind=thing", "--json").out)
    assert [Path(hit["document"]).name for hit in hits] == ["ships.txt"]


def test_a_bad_file_is_named_and_the_others_come_in(run, docs, on):
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    code, out, err = run("rag", "add", docs, *on)
    assert (code, out) == (1, "2 added; 2 of 2 passages encoded\n")
    assert "broken.pdf" in err


def test_an_answer_has_text_sources_and_json(run, filled, tiny_model):
    argv = ("rag", "ask", "llamas carry wool", *filled, "--model", tiny_model, "--max-tokens", "5", "--threshold", "-1")
    code, out, _ = run(*argv)
    assert code == 0
    assert "No passage supports this answer" in out  # random weights say nothing
    plain = json.loads(run(*argv, "--json").out)
    assert plain["grounded"] == "none"
    assert plain["passages"]


def test_a_question_that_the_documents_do_not_answer(run, filled, tiny_model):
    out = run("rag", "ask", "llamas", *filled, "--model", tiny_model, "--threshold", "1e9").out
    assert out.startswith("The documents do not answer this question.\nThe nearest passage is in ")


@pytest.mark.parametrize("question", ["", "  ", "\udcff"])
def test_questions_that_are_none(run, filled, question):
    code, out, err = run("rag", "ask", question, *filled)
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("question", ["\u202e😀\x00\x1b[31m", "你好吗", "? " * 9, "null", "[1]", "--", "' OR 1=1 --"])
def test_odd_questions_are_only_text(run, filled, tiny_model, question):
    more = ("--model", tiny_model, "--max-tokens", "4", "--threshold", "-1", "--json")
    code, out, err = run("rag", "ask", *filled, *more, "--", question)
    assert code == 0, err
    assert json.loads(out)["question"] == question


def test_a_question_too_long_for_the_model(run, filled, tiny_model):
    code, _, err = run("rag", "ask", "llamas " * 1000, *filled, "--model", tiny_model, "--threshold", "-1")
    assert (code, err.count("\n")) == (2, 1)
    assert "shorten the question" in err


def test_missing_files_and_folders_without_text(run, docs, on, tmp_path):
    code, _, err = run("rag", "add", docs / "lamas.md", *on)
    assert (code, err.count("arriero: error:")) == (2, 1)
    assert "did you mean llamas.md?" in err
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    code, _, err = run("rag", "add", tmp_path / "bare", *on)
    assert code == 2
    assert "nothing to read in" in err


@pytest.mark.parametrize("command", [("update",), ("list",), ("search", "x"), ("ask", "x"), ("chat",), ("remove", "x")])
def test_without_a_collection_each_command_says_how_to_make_one(run, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("rag", *command)
    assert (code, err.count("\n")) == (2, 1)
    assert "no collection in .arriero/documents: `arriero rag add PATH` makes one" in err


def test_an_unknown_document_suggests_the_nearest(run, filled):
    name = next(item["name"] for item in json.loads(run("rag", "list", *filled, "--json").out))
    code, _, err = run("rag", "remove", name[:-1], *filled)
    assert code == 2
    assert "did you mean" in err


def test_a_collection_of_another_encoder_names_both(run, filled, tiny_encoder, tmp_path):
    import shutil

    other = tmp_path / "other-encoder"
    shutil.copytree(tiny_encoder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.5}))
    code, _, err = run("rag", "search", "wool", *filled[:2], "--encoder", other)
    assert (code, err.count("\n")) == (2, 1)
    assert "other-encoder" in err
    assert tiny_encoder.name in err


def test_watch_takes_in_what_changes_and_ends_with_ctrl_c(docs, filled):
    command = [sys.executable, "-m", "arriero", "rag", "watch", *filled, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        first = json.loads(process.stdout.readline())
        assert len(first["unchanged"]) == 2
        (docs / "rain.txt").write_text("The rain falls.")
        assert [Path(name).name for name in json.loads(process.stdout.readline())["added"]] == ["rain.txt"]
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(100) == 0


@pytest.mark.weights
def test_real_models_answer_with_a_citation(run, docs, tmp_path, smollm2_gguf, minilm_folder):
    on = ("--collection", tmp_path / "real")
    run("rag", "add", docs, *on)
    plain = json.loads(run("rag", "ask", "What do llamas carry over the mountains?", *on, "--json").out)
    assert "wool" in plain["text"]
    assert plain["citations"][0]["document"].endswith("llamas.md")
    refused = json.loads(run("rag", "ask", "Who won the football match on Sunday?", *on, "--json").out)
    assert refused["refused"]
