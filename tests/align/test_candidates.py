"""Answers kept in a file: whole lines, torn ones, and what is no such file."""

import json

import pytest

from arriero.align.candidates import (
    Candidate,
    Candidates,
    append_candidates,
    read_candidates,
    replace_candidates,
)
from arriero.common.errors import FormatError
from tests.align.answering import ODD, ask


def row(text="one?", *scores):
    answers = tuple(
        Candidate(text="" if score is None else ODD, score=score, ended=bool(n % 2), tokens=n)
        for n, score in enumerate(scores or (1.5, None))
    )
    return Candidates(prompt=ask(text), model="m", temperature=0.7, reward="r", answers=answers)


def test_lines_come_back_as_they_were_odd_unicode_too(tmp_path):
    file = tmp_path / "samples.jsonl"
    rows = [row(ODD), row("two?", -3.0)]
    append_candidates(file, rows[:1])
    append_candidates(file, rows[1:])
    found = read_candidates(file)
    assert [(one.prompt.messages, one.answers, one.reward) for one in found] == [
        (one.prompt.messages, one.answers, one.reward) for one in rows
    ]
    assert len(file.read_text().splitlines()) == 2, "no line separator of Unicode breaks a line"


def test_half_a_line_is_not_read_and_gives_way_to_the_next(tmp_path):
    file = tmp_path / "samples.jsonl"
    append_candidates(file, [row()])
    whole = file.read_bytes()
    for half in (whole[:30], whole[:-1]):
        file.write_bytes(whole + half)
        assert len(read_candidates(file)) == 1
        append_candidates(file, [row("two?")])
        assert [one.prompt.messages[0]["content"] for one in read_candidates(file)] == ["one?", "two?"]
    file.write_bytes(whole[:30])
    append_candidates(file, [row("two?")])
    assert len(read_candidates(file)) == 1


def test_no_file_has_no_lines_and_a_new_one_replaces_all(tmp_path):
    file = tmp_path / "samples.jsonl"
    assert read_candidates(file) == []
    append_candidates(file, [row()])
    replace_candidates(file, [row("two?")])
    assert [one.prompt.messages[0]["content"] for one in read_candidates(file)] == ["two?"]


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"messages": []}', json.dumps({"messages": [], "answers": 3})])
def test_damaged_lines_are_told_with_their_number(tmp_path, line):
    file = tmp_path / "samples.jsonl"
    append_candidates(file, [row()])
    with file.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(FormatError, match=r"samples\.jsonl, line 2: no line of candidates"):
        read_candidates(file)


def test_an_empty_answer_counts_as_the_worst_of_its_prompt():
    assert row("a", 2.0, None, -1.0).scores == [2.0, -1.0, -1.0]
    assert row("a", None, None).scores is None
