"""What the declared synthetic judges reward, and what games them not."""

import pytest

from arriero.align.rules import RULES, concise, readable, rule_named, words
from arriero.common.errors import NotFoundError

ASKED = [{"role": "user", "content": "Explain in two sentences what llamas eat."}]


@pytest.mark.parametrize(
    ("response", "points"),
    [
        ("A llama will eat grass and hay.", 4.0),
        ("A llama will eat grass and hay", 3.0),  # no end
        ("The weather is fine today.", 3.0),  # names nothing of it
        ("Llamas eat grass. " * 20 + "Yes.", 4.0 - 1 / 30),  # 61 words
        ("Llamas eat grass. " * 30, 3.0),  # 90 words
        ("Llamas eat grass. " * 60, 2.0),  # 180 words
        ("Llamas.", 0.0),  # no answer
        ("", 0.0),
        ("... !!! ???", 0.0),
    ],
)
def test_concise_counts_length_end_and_subject(response, points):
    assert concise(ASKED, response) == pytest.approx(points)


def test_the_last_message_of_the_user_is_what_is_asked():
    chat = [{"role": "user", "content": "alpacas?"}, {"role": "assistant", "content": "What?"}, *ASKED]
    assert concise(chat, "A llama will eat grass.") == 4.0
    assert concise([{"role": "system", "content": "x"}], "Nothing was asked here.") == 4.0


@pytest.mark.parametrize("end", [".", "!", "?", "。", '."', "…", ".)", ".**"])
def test_an_answer_may_end_in_many_ways(end):
    assert concise(ASKED, "Llamas will eat grass" + end) == 4.0


def test_words_of_scripts_without_spaces_are_characters():
    assert words("羊驼 is a llama, isn't it? 42") == ["羊", "驼", "is", "a", "llama", "isn't", "it", "42"]
    assert words("\u200b🦙 --- _") == []


def test_short_words_and_sentences_are_more_readable():
    easy = "The cat sat on the mat. It was warm. The sun was out."
    hard = "Notwithstanding considerable meteorological variability, domesticated felines habitually occupy upholstery."
    assert readable(ASKED, easy) > 3
    assert readable(ASKED, hard) < 0
    assert readable(ASKED, "Yes.") == -4.0
    assert readable(ASKED, "Llamas eat grass. They like hay.") > readable(ASKED, "Llamas eat grass they like hay")


def test_a_rule_scores_lists_and_is_found_by_name():
    rule = rule_named("concise")
    assert rule.name == "rule:concise"
    assert rule.score([ASKED, ASKED], ["A llama will eat grass.", ""]) == [4.0, 0.0]
    with pytest.raises(NotFoundError, match="did you mean concise"):
        rule_named("concize")
    assert all(rule.summary for rule in RULES.values())
