"""C4's rules, each by itself and in their order; the paper and the code differ where they should."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError
from arriero.corpus.c4 import Preset, c4_rules, read_words
from arriero.corpus.document import Document
from arriero.corpus.sentences import count_sentences

GOOD = [f"Llama number {number} walks over the high mountains." for number in range(5)]


def judge(lines: list[str], preset: Preset = "code", bad_words: tuple[str, ...] = ()) -> Document:
    (document,) = c4_rules(preset, bad_words)([Document(id="x", text="\n".join(lines), origin="o")])
    return document


@pytest.mark.parametrize(
    "line",
    [
        "A line without an end mark",
        "A line that trails off into nothing...",
        "Too few words.",
        "You must enable JavaScript to see this page.",
        "Read our Terms of Use and be happy with it.",
        "This site uses cookies to remember who you are.",
        "All of it stands in our Privacy Policy, as you know.",
        "All of it stands in our cookie policy, as you know.",
        "By the use of cookies we remember who you are.",
        "We use cookies to remember who you are.",
        "A quotation mark that is “not straight” is “none.”",
        "x" * 1001 + " is a word that is much too long.",
        "",
    ],
)
def test_a_line_that_breaks_a_rule_goes_and_the_page_stays(line: str) -> None:
    assert judge([*GOOD, line]).text.split("\n") == GOOD


def test_white_space_and_citations_go() -> None:
    assert judge(["  Llamas carry loads[1] in Peru[citation needed] and[] Chile.[edit]", *GOOD]).text.split("\n") == [
        "Llamas carry loads in Peru and Chile.",
        *GOOD,
    ]


@pytest.mark.parametrize(
    "line", ['She said "the llama is here."', "Is the llama here today?", "The llama is here today!"]
)
def test_every_end_mark_counts(line: str) -> None:
    assert judge([line, *GOOD]).text.split("\n")[0] == line


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Lorem ipsum dolor sit amet, they all wrote.", "c4: lorem ipsum"),
        ("The function f() { returns } nothing at all.", "c4: a curly bracket"),
    ],
)
def test_some_lines_cost_the_page(line: str, reason: str) -> None:
    assert judge([*GOOD, line]).dropped == reason


def test_rules_are_asked_in_the_order_of_the_code() -> None:
    """A bracket in a line that goes anyway costs nothing; one in a line about cookies does."""
    assert judge([*GOOD, "if (x) { y }"]).dropped is None
    assert judge([*GOOD, "We use javascript { here } for all of this."]).dropped is None
    assert judge([*GOOD, "This site uses cookies { and more } for all."]).dropped == "c4: a curly bracket"


def test_paper_and_code_differ_in_words_and_sentences() -> None:
    three_words, three_sentences = "Llamas eat grass.", GOOD[:3]
    assert judge([*GOOD, three_words], "paper").text.split("\n") == [*GOOD, three_words]
    assert judge([*GOOD, three_words], "code").text.split("\n") == GOOD
    assert judge(three_sentences, "code").dropped is None
    assert judge(three_sentences, "paper").dropped == "c4: too few sentences"


@pytest.mark.parametrize(
    ("line", "dropped"),
    [
        ("There is a drat here in this line.", True),
        ("There is a DRAT, here in this line.", True),
        ("There is a drat2 here in this line.", True),
        ("There is a drats here in this line.", False),
        ("There is a hydrat here in this line.", False),
        ("There is a drät here in this line.", False),
    ],
)
def test_a_bad_word_counts_between_what_are_no_letters(line: str, dropped: bool) -> None:
    assert (judge([*GOOD, line], bad_words=("drat",)).dropped == "c4: a bad word") is dropped


def test_chinese_is_not_one_word() -> None:
    lines = ["羊驼走过高山和大河。", "它们背着沉重的货物。", "他说：“人们喜欢它们的羊毛。”"]
    assert judge(lines).text.split("\n") == lines


def test_every_end_of_a_line_ends_one() -> None:
    assert judge(["\u2028".join(GOOD[:2]), "\r\n".join(GOOD[2:])]).text.split("\n") == GOOD


def test_sentences_are_counted() -> None:
    assert count_sentences('He said "go." Then 3.5 llamas went! Why? Because') == 3
    assert count_sentences("no end") == 1
    assert count_sentences(" ") == 0
    assert count_sentences("一。二？三！") == 3


@given(st.text(alphabet='ab {}.\n"?![]1…é\u2028\t', max_size=200))
def test_lines_are_kept_or_dropped_never_made(text: str) -> None:
    (document,) = c4_rules("paper")([Document(id="x", text=text, origin="o")])
    if not document.dropped:
        whole = {line.strip().replace("[1]", "").replace("[]", "") for line in text.splitlines()}
        assert set(document.text.split("\n")) <= whole


def test_word_lists_come_from_the_user(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("drat\n\n darn \n")
    assert read_words(tmp_path / "words") == {"drat", "darn"}
    (tmp_path / "empty").write_text("\n")
    for name in ("gone", "empty"):
        with pytest.raises(ArrieroError, match=name):
            read_words(tmp_path / name)
