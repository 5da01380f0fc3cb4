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
    told = json.loads(result.out)
    assert told.pop("tokens_per_question") > 50
    assert told == {"training": 6, "held_out": 2, "unanswered": 0, "steps": 2}
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


@pytest.fixture(scope="module")
def trained(room, tmp_path_factory):
    from tests.rag.rag_room import config_for, train_rag

    folder = tmp_path_factory.mktemp("trained") / "run"
    train_rag(folder, config_for(room, training={"steps": 1, "validate_every": 9}))
    return folder / "rag"


def ask(run, room, *more):
    own = ["--collection", str(room / "documents"), "--device", "cpu", "--threshold", "-1", "--max-tokens", "4"]
    return run("rag", "ask", "who is the mayor of lumo?", *own, *more)


def test_a_trained_model_answers_with_shares_and_a_picture(run, room, trained, tmp_path):
    result = ask(run, room, "--rag", str(trained), "--picture", str(tmp_path / "why.html"), "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert len(found["prior"]) == len(found["citations"]) == 3  # as it was trained
    assert sum(citation["posterior"] for citation in found["citations"]) == pytest.approx(1)
    assert "What each token leans on" in (tmp_path / "why.html").read_text()
    fewer = ask(run, room, "--rag", str(trained), "--k", "2", "--json")
    assert len(json.loads(fewer.out)["prior"]) == 2, "the call's k goes before the model's"
    shown = ask(run, room, "--rag", str(trained), "--k", "2", "--num-return", "99", "--decoding", "fast")
    assert shown.code == 0
    assert "before the answer" in shown.out
    assert "answers were found" in shown.err


def test_an_untrained_model_answers_by_either_kind(run, room):
    for mode, decoding in (("token", "sample"), ("sequence", "greedy")):
        result = ask(run, room, "--mode", mode, "--decoding", decoding, "--model", str(room / "base"), "--k", "2")
        assert result.code == 0, result.err
        assert "before the answer" in result.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--mode", "token"), "was trained as RAG-Sequence, not as RAG-Token"),
        (("--mode", "chat"), "takes no --rag"),
        (("--decoding", "beam"), "RAG-Sequence takes thorough, fast, greedy"),
        (("--adapter", "x"), "leave --adapter out"),
        (("--query-encoder", "x"), "leave --query-encoder out"),
        (("--collection", "absent"), "no collection in absent"),
    ],
)
def test_what_does_not_fit_a_trained_model_is_one_line(run, room, trained, more, message):
    result = ask(run, room, "--rag", str(trained), *more)
    assert result.code == 2
    assert message in result.err


def test_the_chat_takes_no_decoding(run, room):
    result = ask(run, room, "--decoding", "fast")
    assert result.code == 2
    assert "expected --mode sequence or token" in result.err
