"""`rag evaluate` from the command line: a table, a page, and its continuation."""

import json

import pytest

from tests.rag.rag_room import config_for, train_rag, write_room


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return write_room(tmp_path_factory.mktemp("room"))


def words(room, out, *more):
    own = ["--collection", str(room / "documents"), "--device", "cpu", "--questions", str(room / "questions.jsonl")]
    return ["rag", "evaluate", *own, "--out", str(out), "--limit", "3", "--max-tokens", "3", *more]


def test_an_untrained_model_is_measured_beside_its_baselines(run, room, tmp_path):
    base = ("--model", str(room / "base"))
    result = run(*words(room, tmp_path / "out", *base))
    assert result.code == 0, result.err
    for name in ("closed-book", "retrieve-then-read", "concatenated", "rag-sequence", "rag-token", "recall@5"):
        assert name in result.out
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "who is the mayor of lumo?" in page
    summary = json.loads(run(*words(room, tmp_path / "out", *base, "--json")).out)  # nothing is left to do
    assert summary["questions"] == 3
    refused = run(*words(room, tmp_path / "out", *base, "--k", "2"))
    assert refused.code == 2
    assert "measure.k was" in refused.err


def test_a_trained_model_is_measured_with_its_own_retriever(run, room, tmp_path):
    train_rag(tmp_path / "run", config_for(room, training={"steps": 1, "validate_every": 9}))
    more = ("--rag", str(tmp_path / "run" / "rag"), "--systems", "rag-token", "--json")
    result = run(*words(room, tmp_path / "out", *more))
    assert result.code == 0, result.err
    [system] = json.loads(result.out)["systems"]
    assert system["name"] == "rag-token"
    first = json.loads((tmp_path / "out" / "questions.jsonl").read_text().splitlines()[0])
    assert len(first["documents"]) == 3  # as it was trained


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--systems", "rag"), "expects some of closed-book, retrieve-then-read"),
        (("--questions", "absent.json"), "no file of questions"),
        (("--rag", "absent"), "no RAG model in absent"),
        (("--rag", "absent", "--adapter", "x"), "leave --adapter out"),
        (("--collection", "absent"), "no collection in absent"),
    ],
)
def test_what_does_not_suit_is_one_line(run, room, tmp_path, more, message):
    result = run(*words(room, tmp_path / "out", "--model", str(room / "base"), *more))
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "out" / "questions.jsonl").exists()
