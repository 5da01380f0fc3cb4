"""`rag train` from the command line: a dry run, a run, its continuation, and what it refuses."""

import json

import pytest

from tests.rag.rag_room import write_room


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return write_room(tmp_path_factory.mktemp("room"))


def words(room, *more):
    own = ["--model", str(room / "base"), "--collection", str(room / "documents"), "--device", "cpu"]
    few = [
        "--questions",
        str(room / "questions.jsonl"),
        "--steps",
        "2",
        "--batch",
        "4",
        "--k",
        "2",
        "--eval-share",
        "0.3",
    ]
    return ["rag", "train", *own, *few, *more]


def test_a_dry_run_tells_and_trains_nothing(run, room, tmp_path):
    result = run(*words(room, str(tmp_path / "run"), "--dry-run", "--json"))
    assert result.code == 0
    assert json.loads(result.out) == {
        "training": 5,
        "held_out": 3,
        "unanswered": 0,
        "steps": 2,
        "tokens_per_question": json.loads(result.out)["tokens_per_question"],
    }
    assert not (tmp_path / "run").exists()


def test_a_run_makes_a_rag_model_and_says_what_to_do_with_it(run, room, tmp_path):
    result = run(*words(room, str(tmp_path / "run")))
    assert result.code == 0, result.err
    assert (tmp_path / "run" / "rag" / "rag.json").is_file()
    assert f"--rag {tmp_path / 'run' / 'rag'}" in result.out
    assert "2 documents" in result.err
    again = run(*words(room, str(tmp_path / "run"), "--kind", "token"))
    assert again.code == 2
    assert "kind was" in again.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--collection", "absent"), "no collection in absent"),
        (("--questions", "absent.json"), "no file of questions at absent.json"),
        (("--k", "0"), "k: expected 1 or more"),
        (("--kind", "both"), "sequence"),
    ],
)
def test_what_does_not_suit_is_one_line(run, room, tmp_path, more, message):
    result = run(*words(room, str(tmp_path / "run"), *more))
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()
