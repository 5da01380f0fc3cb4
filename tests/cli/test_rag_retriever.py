"""`rag retriever` and `rag reencode` from the command line."""

import json

import pytest

from tests.rag.rag_room import write_room


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return write_room(tmp_path_factory.mktemp("room"))


def words(room, *more):
    own = ["--collection", str(room / "documents"), "--device", "cpu", "--questions", str(room / "questions.jsonl")]
    return ["rag", "retriever", *own, "--steps", "1", "--batch", "4", "--eval-share", "0.3", *more]


def test_a_dry_run_tells_and_trains_nothing(run, room, tmp_path):
    result = run(*words(room, str(tmp_path / "run"), "--dry-run", "--json"))
    assert result.code == 0
    assert json.loads(result.out) == {"training": 6, "held_out": 2, "left_out": 0, "negatives": 21, "steps": 1}
    assert not (tmp_path / "run").exists()


def test_what_was_trained_searches_and_encodes_anew(run, room, tmp_path):
    result = run(*words(room, str(tmp_path / "run")))
    assert result.code == 0, result.err
    made = str(tmp_path / "run" / "query_encoder")
    assert f"--query-encoder {made}" in result.out
    search = ["rag", "search", "mayor of lumo", "--collection", str(room / "documents"), "--device", "cpu"]
    assert run(*search, "--query-encoder", made).code == 0
    assert run(*words(room, str(tmp_path / "both"), "--sides", "both")).code == 0
    anew = ["rag", "reencode", "--collection", str(room / "documents"), "--device", "cpu"]
    result = run(*anew, "--encoder", str(tmp_path / "both" / "encoder"))
    assert (result.code, result.out) == (0, "8 passages encoded by encoder\n")
    refused = run(*search, "--query-encoder", made)
    assert refused.code == 2
    assert "was trained for passages of the encoder 'encoder'" in refused.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("rag", "reencode", "--collection", "absent", "--encoder", "x"), "no collection in absent"),
        (("rag", "reencode"), "no encoder given"),
        (("rag", "retriever", "--questions", "absent.json", "--collection", "absent"), "no collection in absent"),
    ],
)
def test_what_does_not_suit_is_one_line(run, argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*argv)
    assert result.code == 2
    assert message in result.err.splitlines()[-1]
