"""Dialogues that a model holds by itself."""

import itertools

import pytest

from arriero.align.dialogue import Talk, converse, lay_out
from arriero.generate.engine import Engine, SamplingConfig
from arriero.model.source import load_model
from tests.align.talking import ODD, Scripted, write_talker

WISH = "Act as Napoleon."
TALK = Talk(("Who are you?", "What now?", "And then?"), WISH)


def asked(messages):
    return [message["content"] for message in messages if message["role"] == "user"]


def test_the_instruction_stands_in_every_message_in_the_first_or_nowhere():
    with_it = [f"{question} {WISH}" for question in TALK.questions]
    assert asked(lay_out(TALK, ["a", "b"], "every")) == with_it
    assert asked(lay_out(TALK, ["a", "b"], "first")) == [with_it[0], *TALK.questions[1:]]
    assert asked(lay_out(TALK, ["a", "b"], "never")) == list(TALK.questions)


def test_in_a_system_message_it_stands_behind_what_is_there():
    talk = Talk(TALK.questions, WISH, system="You are brief.")
    assert lay_out(talk, [], "first", "system")[0] == {"role": "system", "content": f"You are brief.\n\n{WISH}"}
    assert asked(lay_out(talk, ["a", "b"], "first", "system")) == list(TALK.questions)
    assert lay_out(talk, [], "never", "system")[0]["content"] == "You are brief."


def test_a_chat_ends_with_the_message_that_waits_or_with_the_last_answer():
    roles = [message["role"] for message in lay_out(TALK, ["a"], "first")]
    assert roles == ["user", "assistant", "user"]
    assert lay_out(TALK, ["a", "b", "c"], "first")[-1] == {"role": "assistant", "content": "c"}


def test_another_instruction_may_stand_in_its_place():
    assert asked(lay_out(TALK, [], "first", instruction="Figure: Napoleon.")) == ["Who are you? Figure: Napoleon."]


def test_turn_by_turn_the_model_sees_its_own_earlier_answers():
    numbers = itertools.count(1)
    engine = Scripted(lambda prompt: f"answer {next(numbers)}")
    held = converse(engine, [TALK, TALK], SamplingConfig(seed=0), where="every")
    assert [[said.text for said in answers] for answers in held] == [
        ["answer 1", "answer 3", "answer 5"],
        ["answer 2", "answer 4", "answer 6"],
    ]
    assert engine.asked[-1].count(WISH) == 3
    assert "answer 2" in engine.asked[-1]
    assert "answer 4" in engine.asked[-1]
    assert len(set(engine.seeds)) == 6, "each answer has a random stream of its own"


def test_a_dialogue_ends_where_the_model_says_nothing():
    engine = Scripted(lambda prompt: " \n" if "What now?" in prompt else "I")
    held = converse(engine, [TALK], SamplingConfig(), where="first")
    assert [said.text for said in held[0]] == ["I"]
    assert len(engine.asked) == 2


def test_a_dialogue_ends_before_it_would_outgrow_the_context():
    engine = Scripted(lambda prompt: "I am he", context=90)
    held = converse(engine, [TALK, Talk(("x" * 90,))], SamplingConfig(max_tokens=30), where="first")
    assert [len(answers) for answers in held] == [2, 0]


def test_answers_that_were_cut_short_are_marked():
    held = converse(Scripted(lambda prompt: "I", ended=False), [TALK], SamplingConfig(), where="first")
    assert not any(said.ended for said in held[0])


@pytest.fixture
def engine(tmp_path):
    loaded = load_model(str(write_talker(tmp_path / "base")), device="cpu")
    return Engine(loaded.model, loaded.tokenizer, max_batch=4)


def test_a_dialogue_comes_out_the_same_alone_and_among_others(engine):
    talks = [Talk((f"{n}?", "why?", "how?"), WISH) for n in range(5)]
    sampling = SamplingConfig(temperature=1.0, max_tokens=12, seed=3)
    together = converse(engine, talks, sampling, where="every")
    alone = [converse(engine, [talk], sampling, where="every", names=[n])[0] for n, talk in enumerate(talks)]
    assert together == alone
    assert any(len(answers) == 3 for answers in together)
    assert converse(engine, talks, SamplingConfig(temperature=1.0, max_tokens=12, seed=4), where="every") != together


def test_odd_unicode_is_asked_as_it_is(engine):
    converse(engine, [Talk(ODD, WISH)], SamplingConfig(temperature=1.0, max_tokens=8), where="every")
    scripted = Scripted(lambda prompt: "ok")
    converse(scripted, [Talk(ODD, WISH)], SamplingConfig(), where="every")
    assert all(question in scripted.asked[-1] for question in ODD)
