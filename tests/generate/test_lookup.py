"""A guess is what followed the last tokens where they stood last before, by the plainest search."""

from hypothesis import given
from hypothesis import strategies as st

from arriero.generate.lookup import Lookup


def search(tokens: list[int], most: int) -> list[int]:
    for length in (3, 2):
        for place in range(len(tokens) - 1, length - 1, -1):
            if tokens[place - length : place] == tokens[-length:]:
                return tokens[place : place + most]
    return []


@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=40), first=st.integers(1, 40), most=st.integers(0, 6))
def test_guesses_are_those_of_a_plain_search_however_the_row_grew(tokens, first, most):
    lookup = Lookup(6)
    for end in range(min(first, len(tokens)), len(tokens) + 1):
        assert lookup.guess(tokens[:end], most) == search(tokens[:end], most)


def test_a_quotation_is_guessed():
    assert Lookup(4).guess([1, 2, 3, 4, 5, 6, 9, 2, 3], 4) == [4, 5, 6, 9]


def test_wrong_guesses_grow_shorter_and_right_ones_longer():
    lookup, tokens = Lookup(4), [1, 2, 3, 4, 5, 6, 9, 2, 3]
    lookup.learn(4, 1)
    assert len(lookup.guess(tokens, 4)) == 2
    lookup.learn(2, 0)
    lookup.learn(1, 0)
    assert len(lookup.guess(tokens, 4)) == 1
    lookup.learn(1, 1)
    assert len(lookup.guess(tokens, 4)) == 2
    lookup.learn(0, 0)
    assert len(lookup.guess(tokens, 4)) == 2
