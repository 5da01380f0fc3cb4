"""Gopher's rules, each broken by a text that breaks no other before it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.corpus.document import Document
from arriero.corpus.gopher import (
    MAX_DUPLICATE,
    MAX_TOP,
    duplicate_characters,
    gopher_rules,
    repeated_grams,
    repetition,
    top_characters,
)

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
    assert top("a b c a b d a b", 2) == 6
    assert top("a b c d", 2) == 0
    assert duplicate("a b c a b c a b c", 3) == 6
    assert duplicate("a a a a", 2) == 3


def top(text: str, n: int) -> int:
    return top_characters(repeated_grams(text.split(), n, range(len(text))))


def duplicate(text: str, n: int) -> int:
    return duplicate_characters(text.split(), n, repeated_grams(text.split(), n, range(len(text))))


def first_broken(words: list[str]) -> str | None:
    """The paper's rules for n-grams, word for word."""
    characters = sum(map(len, words))
    for n in range(2, 11):
        grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
        if n in MAX_TOP:
            counts = Counter(grams)
            most = max(counts.values(), default=0)
            sizes = [count * len("".join(gram)) for gram, count in counts.items() if count == most > 1]
            if max(sizes, default=0) > MAX_TOP[n] * characters:
                return f"the most frequent {n}-gram"
        else:
            again = {start + i for start, gram in enumerate(grams) if gram in grams[:start] for i in range(n)}
            if sum(len(words[place]) for place in again) > MAX_DUPLICATE[n] * characters:
                return f"repeated {n}-grams"
    return None


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(0, 30))
def test_n_grams_are_counted_as_if_each_were_looked_at(numbers: list[int], copied: int) -> None:
    words = [f"w{number}" for number in [*range(100, 160), *numbers, *numbers[:copied]]]
    assert repetition(words, []) == first_broken(words)


def test_thresholds_are_those_of_table_a1() -> None:
    assert MAX_TOP == {2: 0.20, 3: 0.18, 4: 0.16}
    assert MAX_DUPLICATE == {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def test_chinese_has_words_of_one_character() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(200))
    assert judge(text) == "gopher: stop words"
