"""An order that is computed place by place is an order."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from arriero.train.permutation import Permutation


@given(n=st.integers(1, 3000), key=st.text(max_size=5))
def test_each_thing_stands_at_one_place(n: int, key: str) -> None:
    assert sorted(Permutation(n, key).at(np.arange(n)).tolist()) == list(range(n))


@given(n=st.integers(1, 1 << 40), key=st.text(max_size=5))
def test_things_of_huge_sets_are_in_them(n: int, key: str) -> None:
    places = np.unique(np.linspace(0, n - 1, 50).astype(np.int64))
    things = Permutation(n, key).at(places)
    assert things.min() >= 0
    assert things.max() < n
    assert len(np.unique(things)) == len(places)


def test_the_order_follows_from_the_key() -> None:
    places = np.arange(1000)
    one, same, other = (Permutation(1000, key).at(places) for key in ("a", "a", "b"))
    assert (one == same).all()
    assert (one == other).mean() < 0.02


def test_keys_spread_things_evenly_over_places() -> None:
    for n in (2, 3, 5, 17):
        first = Counter(int(Permutation(n, str(key)).at(np.array([0]))[0]) for key in range(200 * n))
        assert all(130 < first[thing] < 270 for thing in range(n)), (n, first)


def test_neighbours_are_torn_apart() -> None:
    things = Permutation(100_000, "x").at(np.arange(100_000))
    assert abs(np.corrcoef(things[:-1], things[1:])[0, 1]) < 0.02
    assert (np.diff(things) == 1).mean() < 0.001
