"""`rag ask|chat --mode sequence|token` on the command line: what is shown, and what is refused."""

import json
import re
import signal
import threading

import pytest

from arriero.cli.interrupt import interruptible, stoppable
from tests.rag.rag_room import write_room

QUESTION = "who is the mayor of lumo?"


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return write_room(tmp_path_factory.mktemp("room"))


@pytest.fixture
def asked(run, room):
    def call(command, *more, stdin=""):
        own = ["--collection", room / "documents", "--model", room / "base", "--device", "cpu", "--threshold", "-1"]
        words = ["rag", *command, *own, *more]
        if not {"--mode", "--rag"} & set(more):
            words += ["--mode", "token"]
        return run(*words, *([] if "--max-tokens" in more else ["--max-tokens", "3"]), stdin=stdin)

    return call


def test_passages_are_listed_by_their_share_and_small_ones_counted(asked):
    result = asked(["ask", QUESTION], "--k", "8")
    assert result.code == 0, result.err
    shares = [int(share) for share in re.findall(r"^\[\d+\] +(\d+)%", result.out, re.MULTILINE)]
    assert shares == sorted(shares, reverse=True)
    more = re.search(r"and (\d+) more, each below 1%", result.out)
    assert len(shares) + (int(more[1]) if more else 0) == 8
    assert "(ended at --max-tokens)" in result.err
    assert "∎" not in result.out
    assert "░" not in result.out


def test_the_picture_is_shown_where_it_is_asked_for_in_a_pipe_too(asked):
    result = asked(["ask", QUESTION], "--k", "2", "--show-posterior")
    assert result.code == 0, result.err
    assert "of p(z | x, y) and more" in result.out
    assert "\x1b" not in result.out
    assert max(len(line) for line in result.out.splitlines() if line.startswith("[1] docs")) <= 100


def test_everything_is_in_the_json(asked):
    result = asked(["ask"], "--k", "2", "--json", "--num-return", "2", stdin=QUESTION)
    found = json.loads(result.out)
    assert (found["question"], found["mode"], len(found["documents"])) == (QUESTION, "token", 2)
    assert len(found["hypotheses"]) == 2
    for each in found["hypotheses"]:
        assert len(each["tokens"]) == len(each["token_posterior"]) <= 3


def test_after_a_refusal_there_is_no_picture(asked, tmp_path):
    result = asked(["ask", QUESTION], "--threshold", "9", "--picture", tmp_path / "why.html", "--show-posterior")
    assert result.code == 0
    assert "The documents do not answer this question." in result.out
    assert "The nearest passage is in docs/" in result.out
    assert "no picture" in result.err
    assert not (tmp_path / "why.html").exists()


def test_a_talk_answers_each_question_and_shows_the_last_ones_picture(asked):
    said = asked(["chat"], stdin=f"/posterior\n{QUESTION}\n/posterior\nwho is the mayor of nera?\n")
    assert said.code == 0
    assert "nothing was answered yet" in said.err
    assert said.out.count("[1] ") == 2 + 1
    assert said.out.count("of p(z | x, y) and more") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--mode", "sequence", "--decoding", "sample"), "RAG-Sequence takes thorough, fast, greedy"),
        (("--top-k", "3"), "--top-k has no effect on RAG's own models"),
        (("--temperature", "0.5"), "--temperature has no effect"),
        (("--sentences", "0"), "--sentences has no effect"),
        (("--rag", "absent"), "no RAG model in absent"),
        (("--rag", "absent", "--weights", "int8"), "--rag brings its own generator, in full precision"),
        (("--weights", "int4"), "w2 has 48 inputs, and int4 weights need a multiple of 32"),
        (("--beams", "0"), "beams: expected 1 or more"),
        (("--filter", "document=absent.txt", "--retrieval", "dense"), "no document matches document=absent.txt"),
        (("--mode", "chat", "--beams", "2"), "--beams is for RAG's own models"),
        (("--mode", "chat", "--show-posterior"), "--show-posterior is for RAG's own models"),
        (("--mode", "chat", "--picture", "x.html"), "--picture is for RAG's own models"),
    ],
)
def test_what_would_have_no_effect_or_no_answer_is_one_line(asked, more, message):
    result = asked(["ask", QUESTION], *more)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_samples_heed_temperature_and_seed(asked):
    drawn = [
        asked(["ask", QUESTION], "--decoding", "sample", "--temperature", "3", "--seed", seed, "--json").out
        for seed in ("1", "1", "2")
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_ctrl_c_ends_work_at_once_that_looks_at_no_event():
    stop = threading.Event()
    with stoppable(stop):
        with pytest.raises(KeyboardInterrupt), interruptible():
            signal.raise_signal(signal.SIGINT)
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
    assert stop.is_set()
