"""Words and what stands for them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.corpus import grams
from arriero.corpus.grams import growing_grams, hash_grams, hash_words, word_spans

TEXTS = st.text(alphabet="aB éİß.,'_-’!羊ก\n\t 😀e\u0301", max_size=80)


def test_case_and_punctuation_do_not_count() -> None:
    assert np.array_equal(hash_words("Don't — STOP_it, “é”!"), hash_words("don t stop it é"))
    assert len(hash_words("  …!? \n")) == 0


def test_scripts_without_spaces_are_split_by_character_and_others_keep_their_vowel_signs() -> None:
    assert len(hash_words("羊が，山に a1b2")) == 5
    assert len(hash_words("ลามา")) == 4
    assert len(hash_words("हिन्दी में")) == 2


def test_the_numbers_are_the_same_in_every_process() -> None:
    assert hash_words("llama").tolist() == [2221678116696888135]
    assert hash_grams(hash_words("a llama and an alpaca"), 5).tolist() == [1285364265463944116]


@given(TEXTS, st.integers(1, 6))
def test_equal_grams_have_equal_numbers_and_others_do_not(text: str, n: int) -> None:
    words = hash_words(text)
    slow = [tuple(words[start : start + n].tolist()) for start in range(len(words) - n + 1)]
    found = hash_grams(words, n).tolist()
    assert len(found) == len(slow)
    assert len(set(zip(found, slow, strict=True))) == len(set(found)) == len(set(slow))


def test_grams_grow_beyond_the_text_and_are_none() -> None:
    sizes = [len(each) for each, _ in zip(growing_grams(hash_words("a b")), range(4), strict=False)]
    assert sizes == [2, 1, 0, 0]


@given(TEXTS)
def test_spans_are_the_places_of_the_words(text: str) -> None:
    spans = word_spans(text)
    singles = [hash_words(text[start:end]).tolist() for start, end in spans]
    assert [number for single in singles for number in single] == hash_words(text).tolist()
    assert len(singles) == len(hash_words(text))


@given(TEXTS.map(lambda text: text * 3), st.integers(7, 30))
def test_long_texts_are_taken_in_blocks(text: str, block: int) -> None:
    whole, spans = hash_words(text), word_spans(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grams, "BLOCK", block)
        parts, places = hash_words(text), word_spans(text)
    if all(len(run) < block for run in text.split()):
        assert parts.tolist() == whole.tolist()
        assert places.tolist() == spans.tolist()
    else:
        assert len(parts) == len(places)


def test_a_word_that_is_longer_than_a_block_ends() -> None:
    assert len(hash_words("x" * (5 * grams.BLOCK))) == 3
