"""Instructions for whole dialogues, and what users ask in them."""

import json

import pytest

from arriero.align.adherence import read_check
from arriero.align.instructions import (
    CONSTRAINTS,
    HELD_OUT_OPENINGS,
    OPENINGS,
    PAPER_KINDS,
    Instruction,
    draw_instruction,
    read_constraints,
)
from arriero.align.questions import HELD_OUT, TRAINING, draw_questions
from arriero.common.errors import ArrieroError, FormatError


def draw(number, kinds=PAPER_KINDS, seed=0):
    return draw_instruction(CONSTRAINTS, kinds, seed, number)


def test_constraints_are_combined_at_random_one_of_each_kind():
    texts = [draw(number).text for number in range(300)]
    counts = {sum(word in text for word in ("enjoy", "speak in", "act as")) for text in texts}
    assert counts == {1, 2, 3}
    assert len(set(texts)) > 150
    assert all(text.count("act as") <= 1 and text.count("speak in") <= 1 for text in texts)


def test_half_of_the_instructions_are_terse():
    drawn = [draw(number) for number in range(400)]
    assert 0.42 < sum(one.short != one.text for one in drawn) / 400 < 0.58
    figure = next(one for one in drawn if one.text == "Always act as Napoleon from now on." and one.short != one.text)
    assert figure.short == "Figure: Napoleon."


def test_equal_seeds_draw_equal_instructions():
    assert [draw(n, seed=3) for n in range(20)] == [draw(n, seed=3) for n in range(20)]
    assert [draw(n, seed=3) for n in range(20)] != [draw(n, seed=4) for n in range(20)]


def test_what_can_be_checked_is():
    for one in CONSTRAINTS:
        if one.check:
            read_check(one.check)
    assert {one.kind for one in CONSTRAINTS if one.check} == {"language", "opening", "length"}
    both = Instruction(text="", short="", checks=("begins:Ahoy", "words:2"))
    assert both.kept("Ahoy there")
    assert not both.kept("Ahoy my friend")
    assert not both.kept("My friend")
    assert Instruction(text="You enjoy chess.", short="").kept("anything"), "no program can tell"


def test_nothing_that_is_measured_is_trained_on():
    assert not {word.lower() for word in OPENINGS} & {word.lower() for word in HELD_OUT_OPENINGS}
    assert not set(TRAINING) & set(HELD_OUT)
    assert len(set(TRAINING)) == len(TRAINING)
    assert len(HELD_OUT) >= 20, "the paper measures 20 turns"


def test_an_unknown_kind_is_refused():
    with pytest.raises(ArrieroError, match=r"expected kinds of hobby.*got 'hoby' \(did you mean hobby\?\)"):
        draw(0, kinds=("hoby",))


def test_constraints_of_ones_own_are_read(tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = [{"text": "Réponds en français 🦙.", "check": "language:French"}, {"kind": "a", "text": "b", "short": "c"}]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    first, second = read_constraints(file)
    assert (first.kind, first.short, first.check) == ("own", first.text, "language:French")
    assert (second.kind, second.short, second.check) == ("a", "c", "")


@pytest.mark.parametrize(
    "line", ['{"text": 3}', "[]", '{"text": " "}', '{"text": "a", "check": "rhymes"}', '{"text": "\\ud800"}', "{"]
)
def test_a_row_that_is_no_constraint_is_named_with_its_line(tmp_path, line):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "Be brief."}\n' + line)
    with pytest.raises(FormatError, match="line 2"):
        read_constraints(file)


def test_an_empty_file_of_constraints_is_an_error(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.touch()
    with pytest.raises(FormatError, match="no row in it"):
        read_constraints(file)


def test_a_dialogue_asks_no_question_twice():
    dialogues = draw_questions(30, 20, 1, held_out=True)
    assert all(len(set(questions)) == 20 for questions in dialogues)
    assert len(set(dialogues)) == 30
    assert draw_questions(30, 20, 1, held_out=True) == dialogues


def test_more_turns_than_questions_are_refused():
    with pytest.raises(ArrieroError, match=f"expected 1 to {len(HELD_OUT)}"):
        draw_questions(1, 100, 0, held_out=True)
