"""What is reported of a tokenizer is what it does."""

import pytest

from arriero.common.errors import ArrieroError
from arriero.tokenizer.bpe_options import BpeOptions
from arriero.tokenizer.measure import measure
from arriero.tokenizer.pieces import SPACE
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.tokenizer.train import train_bpe


@pytest.fixture(scope="module")
def spelling() -> Tokenizer:
    """A vocabulary in which every character is a token."""
    return train_bpe(["abc 中文"], BpeOptions(vocab_size=259 + 6)).tokenizer()


def test_counts_of_a_small_text(spelling: Tokenizer):
    found = measure(spelling, ["abc ab", "中文 c"], source="s", name="n")
    assert (found.bytes, found.words, found.tokens, found.distinct) == (6 + 8, 2 + 3, 7 + 5, 6)
    assert found.bytes_per_token == pytest.approx(14 / 12)
    assert found.fertility == pytest.approx(12 / 5)
    assert found.vocabulary_used == pytest.approx(6 / 265)
    assert found.altered == 0
    assert found.facts()["bytes_per_token"] == found.bytes_per_token


def test_punctuation_belongs_to_its_word(spelling: Tokenizer):
    assert measure(spelling, ["It's (really) so."], source="s", name="n").words == 3


def test_text_that_does_not_come_back_is_counted(spelling: Tokenizer):
    assert measure(spelling, ["fine", f"a{SPACE}b"], source="s", name="n").altered == 1


def test_many_texts_are_measured_in_parts(spelling: Tokenizer):
    one, many = (measure(spelling, ["abc"] * count, source="s", name="n") for count in (1, 1000))
    assert many.tokens == 1000 * one.tokens


def test_no_text_is_told(spelling: Tokenizer):
    with pytest.raises(ArrieroError, match="'s' holds no text"):
        measure(spelling, [""], source="s", name="n")
