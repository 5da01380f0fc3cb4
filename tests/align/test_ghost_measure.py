"""Over how many turns an instruction holds."""

import pytest

from arriero.align.ghost_measure import MEASURED, measure_adherence
from arriero.align.instructions import Constraint, opening
from arriero.common.errors import ArrieroError
from tests.align.talking import Scripted


def by_where(measured):
    return {one.where: one for one in measured.adherence}


def test_a_model_that_forgets_is_seen_to_forget():
    """Its own answers are no reminder here: the word is cut out of what it sees of them."""
    engine = Scripted(lambda prompt: "Ahoy there" if prompt.count("u:") < 3 and '"Ahoy!"' in prompt else "Well")
    found = by_where(measure_adherence("m", engine, constraints=[opening("Ahoy")], turns=6, dialogues=4))
    assert [kept.share for kept in found["first"].turns] == [1, 1, 0, 0, 0, 0]
    assert found["first"].survived == 2
    assert found["never"].survived == 0


def test_what_is_possible_and_what_comes_by_chance_stand_beside_it():
    engine = Scripted(lambda prompt: "Ahoy there" if '"Ahoy!"' in prompt.split("u:")[-1] else "Well")
    found = by_where(measure_adherence("m", engine, constraints=[opening("Ahoy")], turns=3, dialogues=2))
    assert [kept.share for kept in found["every"].turns] == [1, 1, 1]
    assert [kept.share for kept in found["first"].turns] == [1, 0, 0]
    assert [kept.share for kept in found["never"].turns] == [0, 0, 0]
    assert found["first"].turns[0].low < 1 == found["first"].turns[0].high


def test_dialogues_that_end_early_count_as_far_as_they_came():
    engine = Scripted(lambda prompt: "" if prompt.count("u:") == 3 else "Ahoy")
    measured = measure_adherence("m", engine, constraints=[opening("Ahoy")], turns=4, dialogues=2)
    first = by_where(measured)["first"]
    assert [kept.answers for kept in first.turns] == [2, 2, 0, 0]
    assert first.turns[3].share is None
    assert [message["role"] for message in measured.example] == ["user", "assistant"] * 2
    assert measure_adherence("m", Scripted(lambda prompt: ""), turns=2, dialogues=1).example == ()


def test_the_example_is_a_dialogue_with_the_instruction_in_its_first_turn():
    measured = measure_adherence(
        "m", Scripted(lambda prompt: "ok"), constraints=[opening("Ahoy")], turns=2, dialogues=1
    )
    assert measured.instruction in measured.example[0]["content"]
    assert measured.instruction not in measured.example[2]["content"]
    assert measured.example[-1] == {"role": "assistant", "content": "ok"}


def test_what_is_measured_by_default_can_be_checked():
    assert all(one.check for one in MEASURED)


def test_what_no_program_can_check_is_refused():
    vague = Constraint(kind="figure", text="Act as Napoleon.", short="Figure: Napoleon.")
    with pytest.raises(ArrieroError, match=r"no program can tell .*Act as Napoleon"):
        measure_adherence("m", Scripted(str), constraints=[vague])
    with pytest.raises(ArrieroError, match="expected instructions and dialogues"):
        measure_adherence("m", Scripted(str), constraints=[])
