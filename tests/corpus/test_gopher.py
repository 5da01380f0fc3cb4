"""Gopher's rules, each broken by a text that breaks no other before it."""

import pytest

from arriero.corpus.document import Document
from arriero.corpus.gopher import _duplicate, _top, gopher_rules

SENTENCE = "the llama and alpaca of Peru have walked with loads that were heavy to be carried over mountains"
WORDS = SENTENCE.split()
GOOD = "\n".join(" ".join(f"{word}{'abcdefgh'[(i * 7 + j) % 8]}" for j, word in enumerate(WORDS)) for i in range(4))
GOOD = "the and of have with\n" + GOOD


def judge(text: str) -> str | None:
    (document,) = gopher_rules()([Document(id="x", text=text, origin="o")])
    return document.dropped


def test_good_text_stays() -> None:
    assert judge(GOOD) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the llama and the alpaca", "fewer than 50 words"),
        (GOOD + " x" * 100_000, "more than 100,000 words"),
        ("the and " + "a b c d e f g h " * 8, "mean length of words"),
        (GOOD + " ###########", "symbols"),
        ("\n".join(f"- {line}" for line in GOOD.split("\n")), "bullets"),
        ("\n".join(f"{line}..." for line in GOOD.split("\n")), "ellipses"),
        (GOOD + " 12345" * 30, "words without letters"),
        (GOOD.partition("\n")[2], "stop words"),
        (f"{GOOD}\n" * 2, "repeated lines"),
        (f"{GOOD}\n{GOOD.splitlines()[1]}\n{GOOD.splitlines()[1]}", "characters in repeated lines"),
        (f"{GOOD}\n" + "llama alpaca " * 12, "the most frequent 2-gram"),
    ],
)
def test_each_rule_has_a_reason_of_its_own(text: str, reason: str) -> None:
    assert judge(text) == f"gopher: {reason}"


def test_shares_of_n_grams_are_of_characters() -> None:
    words = ["a", "b", "c", "a", "b", "d", "a", "b"]
    assert _top(words, 2) == 6
    assert _top(["a", "b", "c", "d"], 2) == 0
    assert _duplicate(["a", "b", "c", "a", "b", "c", "a", "b", "c"], 3) == 6
    assert _duplicate(["a", "a", "a", "a"], 2) == 3


def test_chinese_has_words_of_one_character() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(200))
    assert judge(text) == "gopher: stop words"
