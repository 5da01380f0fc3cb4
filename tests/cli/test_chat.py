"""`arriero chat` and `rag chat`: pipes, commands, history within the context, Ctrl-C and Ctrl-D at a real terminal."""

import json
import sys
import threading
from pathlib import Path

import pexpect
import pytest

from arriero.cli.chat import ChatConfig, Session, TalkSampling
from arriero.generate.engine import Engine

SHORT = ("--max-tokens", "6")


def test_lines_of_a_pipe_are_answered_in_turn(run, tiny_model):
    code, out, _ = run("chat", "--model", tiny_model, *SHORT, "--json", stdin="Hello\n\nAnd again")
    turns = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [turn["role"] for turn in turns] == ["assistant", "assistant"]


def test_commands(run, tiny_model):
    lines = "/help\n/system\n/system Be brief.\n/system\n/reset\n/rest\n/exit\nnever reached\n"
    code, out, err = run("chat", "--model", tiny_model, stdin=lines)
    assert (code, out) == (0, "")
    assert "/reset     forget the talk so far" in err
    assert "(the model's own)" in err
    assert "Be brief." in err
    assert "unknown command /rest (did you mean /reset?)" in err


def test_a_mistake_ends_neither_the_talk_nor_its_history(run, tiny_model):
    lines = "x" * 400 + "\nHello\n"
    code, out, err = run("chat", "--model", tiny_model, *SHORT, "--json", stdin=lines)
    assert code == 0
    assert "leaves no room in the context of 256" in err
    assert len(out.splitlines()) == 1


@pytest.fixture
def session(tiny_model) -> Session:
    config = ChatConfig(model=str(tiny_model), json=True, sampling=TalkSampling(max_tokens=20))
    return Session(Engine.load(str(tiny_model)), config)


def test_the_oldest_turns_leave_when_the_context_is_full(session, capsys):
    for number in range(6):
        session.reply(f"message {number}", threading.Event())
    out, err = capsys.readouterr()
    assert "the oldest 2 turns are dropped" in err
    assert json.loads(out.splitlines()[-1])["dropped_turns"] > 0
    assert session.turns[-2]["content"] == "message 5"
    assert session.turns[0]["role"] == "user"


def test_the_system_message_stays_when_turns_leave(session):
    session.set_system("Be brief.")
    for number in range(6):
        session.reply(f"message {number}", threading.Event())
    ids, _ = session._fit()
    assert "Be brief." in session.engine.tokenizer.decode(ids)


def test_a_stopped_answer_is_remembered_as_far_as_it_came(session):
    stop = threading.Event()
    stop.set()
    session.reply("Hello", stop)
    assert [turn["role"] for turn in session.turns] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [
        ({}, {}, (512, 0.2, 0.9, 1.1)),
        ({"temperature": 0.6}, {}, (512, 0.6, 1.0, 1.0)),
        ({"temperature": 0.6, "top_p": 0.8, "max_tokens": 90}, {"temperature": 0.2}, (90, 0.2, 0.8, 1.0)),
        ({"repetition_penalty": 1.2}, {"max_tokens": 7, "repetition_penalty": 1.0}, (7, 0.2, 0.9, 1.0)),
    ],
)
def test_what_is_given_wins_over_the_models_own_sampling_and_that_over_ours(own, given, expected):
    said = TalkSampling(**given).over(own)
    assert (said.max_tokens, said.temperature, said.top_p, said.repetition_penalty) == expected


def test_a_setting_that_cannot_be_used_is_told_before_the_model_is_looked_for(run):
    code, _, err = run("chat", "--model", "no-such-model", "--top-p", "4")
    assert (code, err.count("top_p must be above 0 and at most 1 (off), not 4.0")) == (2, 1)


def spawn(*argv: str) -> pexpect.spawn:
    return pexpect.spawn(sys.executable, ["-m", "arriero", *argv], timeout=120, encoding="utf-8")


def interrupt(talk: pexpect.spawn, expected: object) -> None:
    """Press Ctrl-C until the program shows what is expected of it.

    Python's input() with readline sleeps through a Ctrl-C that comes between its prompt and its wait for a key. The
    next one wakes it, and both count as one.
    """
    for _ in range(12):
        talk.sendintr()
        if talk.expect([expected, pexpect.TIMEOUT], timeout=5) == 0:
            return
    pytest.fail(f"no {expected!r} after 12 times Ctrl-C, but {talk.before!r}")


@pytest.fixture(scope="module")
def slow_model(tiny_model, tmp_path_factory) -> Path:
    """A model whose answer of 3,000 tokens takes long enough to be stopped."""
    import shutil

    folder = tmp_path_factory.mktemp("slow") / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return folder


def test_ctrl_c_stops_the_answer_and_not_the_program(slow_model):
    answer = ("--max-tokens", "6000", "--stop-ids", "0", "--temperature", "1", "--seed", "1")
    talk = spawn("chat", "--model", str(slow_model), *answer)
    talk.expect("Ctrl-D leaves")
    talk.expect("> ")
    talk.sendline("Hello")
    talk.expect("Hello\r\n.{20}")  # the answer is under way
    interrupt(talk, r"\(stopped\)")
    talk.expect("> ")
    talk.sendline("/help")
    talk.expect("leave")
    talk.expect("> ")
    talk.sendeof()
    talk.expect(pexpect.EOF)
    talk.close()
    assert talk.exitstatus == 0


def test_ctrl_c_at_the_prompt_leaves_the_second_time(tiny_model):
    talk = spawn("chat", "--model", str(tiny_model))
    talk.expect("> ")
    talk.send("half a li")
    interrupt(talk, "Ctrl-C again")
    talk.expect("> ")
    talk.sendline("/reset")
    talk.expect("begins anew")
    talk.expect("> ")
    interrupt(talk, "Ctrl-C again")
    talk.expect("> ")
    interrupt(talk, pexpect.EOF)
    talk.close()
    assert talk.exitstatus == 0


def test_ctrl_c_ends_a_single_answer(slow_model):
    answer = ("--max-tokens", "6000", "--stop-ids", "0", "--temperature", "1", "--seed", "1")
    once = spawn("generate", "Hello", "--model", str(slow_model), *answer)
    once.expect(".{40}")
    interrupt(once, r"\(stopped\)")
    once.expect(pexpect.EOF)
    once.close()
    assert once.exitstatus == 0


def test_rag_chat_answers_lines_and_shows_passages(run, tiny_model, tiny_encoder, tmp_path):
    (tmp_path / "llamas.txt").write_text("Llamas carry wool over the mountains of Peru.")
    on = ("--collection", tmp_path / "collection")
    run("rag", "add", tmp_path / "llamas.txt", *on, "--encoder", tiny_encoder)
    lines = "/passages\nllamas carry wool\n/passages\n/reset\n/exit\n"
    more = ("--model", tiny_model, *SHORT, "--threshold", "-1")
    code, out, err = run("rag", "chat", *on, *more, stdin=lines)
    assert code == 0
    assert "No passage supports this answer" in out
    assert "(nothing was asked yet)" in err
    assert "mountains of Peru" in err


def test_rag_chat_in_json_lines(run, tiny_model, tiny_encoder, tmp_path):
    (tmp_path / "llamas.txt").write_text("Llamas carry wool.")
    on = ("--collection", tmp_path / "collection")
    run("rag", "add", tmp_path / "llamas.txt", *on, "--encoder", tiny_encoder)
    more = ("--model", tiny_model, *SHORT, "--threshold", "1e9", "--json")
    out = run("rag", "chat", *on, *more, stdin="llamas?\nwool?\n").out
    assert [json.loads(line)["refused"] for line in out.splitlines()] == [True, True]
