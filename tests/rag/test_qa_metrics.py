"""Measures agree with what SQuAD's own script makes of the same answers, and with their definitions."""

import pytest

from arriero.rag.qa_metrics import (
    answer_tokens,
    count_refusals,
    difference,
    estimate,
    exact_match,
    f1,
    holds_answer,
    normalise,
    recall_at,
    reciprocal_ranks,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Denver Broncos!", "denver broncos"),
        ("an apple, a pear", "apple pear"),
        ("U.S.", "us"),
        ("theatre", "theatre"),
        ("12–24", "1224"),
        ("你好，吗？", "你好吗"),
        ("", ""),
    ],
)
def test_the_normal_form(text, normal):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("said", "gold", "exact", "overlap"),
    [
        ("the Broncos", ["Broncos"], 1, 1),
        ("Denver Broncos", ["Broncos", "The Denver Broncos"], 1, 1),
        ("the Denver team", ["Denver Broncos"], 0, 0.5),
        ("in 1998 and 1999", ["1999"], 0, 0.4),
        ("", ["x"], 0, 0),
        ("the", ["a"], 1, 1),
        ("x x y", ["x y y"], 0, 2 / 3),
        ("你好", ["你们好"], 0, 0.8),
        ("anything", [], 0, 0),
    ],
)
def test_exact_match_and_f1(said, gold, exact, overlap):
    assert exact_match(said, gold) == exact
    assert f1(said, gold) == pytest.approx(overlap)


def test_chinese_is_compared_by_characters_and_latin_within_it_by_words():
    assert answer_tokens("在 GPT模型 中") == ["在", "gpt", "模", "型", "中"]


def test_a_passage_holds_an_answer_word_for_word():
    passage = "It was won by the Denver Broncos, in 2016."
    assert holds_answer(passage, ["denver broncos"])
    assert holds_answer(passage, ["x", "2016"])
    assert not holds_answer(passage, ["Denver 2016"])
    assert not holds_answer(passage, ["201"])
    assert not holds_answer(passage, ["the"])
    assert holds_answer("答案是你好吗。", ["你好"])


def test_recall_and_reciprocal_ranks():
    ranks = [1, 3, None, 5]
    assert recall_at(ranks, 1) == [1, 0, 0, 0]
    assert recall_at(ranks, 5) == [1, 1, 0, 1]
    assert reciprocal_ranks(ranks) == [1, pytest.approx(1 / 3), 0, 0.2]


def test_an_interval_holds_the_mean_and_narrows_with_more_questions():
    few, many = estimate([0, 1] * 10), estimate([0, 1] * 1000)
    assert few.low < few.mean == 0.5 < few.high
    assert many.high - many.low < few.high - few.low
    assert estimate([0, 1] * 10) == few
    assert abs((many.high - many.low) - 2 * 1.96 * 0.5 / 2000**0.5) < 0.005
    assert str(estimate([])) == "-"


def test_a_difference_is_taken_question_by_question():
    better = difference([1, 1, 0, 1] * 50, [1, 0, 0, 1] * 50)
    assert better.mean == pytest.approx(0.25)
    assert better.low > 0


def test_refusals_are_counted_with_their_precision_and_recall():
    found = count_refusals([True, True, False, False], [False, True, False, True])
    assert (found.precision, found.recall) == (0.5, 0.5)
    none = count_refusals([False], [True])
    assert (none.precision, none.recall) == (None, None)
