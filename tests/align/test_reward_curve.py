"""The expected best and median of K of N samples, against every draw that there is."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.align.reward_curve import expected_best, expected_median, expected_place, reward_curve
from arriero.common.errors import ArrieroError

SCORES = st.lists(st.floats(-100, 100), min_size=1, max_size=7)


@given(SCORES, st.data())
def test_expectations_are_means_over_all_draws(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    draws = list(itertools.combinations(scores, k))
    assert expected_best(scores, k) == pytest.approx(statistics.fmean(map(max, draws)), abs=1e-9)
    assert expected_median(scores, k) == pytest.approx(statistics.fmean(map(statistics.median, draws)), abs=1e-9)
    assert expected_place(scores, k, 1) == pytest.approx(statistics.fmean(map(min, draws)), abs=1e-9)


@given(st.lists(st.lists(st.floats(-1e4, 1e4), min_size=5, max_size=9), min_size=1, max_size=4))
def test_the_maximum_rises_with_the_samples(scores):
    curve = reward_curve(scores)
    assert curve.samples == list(range(1, min(map(len, scores)) + 1))
    assert all(after >= before - 1e-6 for before, after in itertools.pairwise(curve.maximum))
    assert curve.maximum[0] == pytest.approx(curve.median[0])
    assert (curve.maximum_error is None) == (len(scores) == 1)


def test_a_thousand_samples_are_told_of_at_few_places_and_exactly():
    scores = [float(n) for n in range(1000)]
    curve = reward_curve([scores, scores])
    assert curve.samples[0] == 1
    assert curve.samples[-1] == 1000
    assert len(curve.samples) <= 32
    assert curve.maximum == pytest.approx([k * 1001 / (k + 1) - 1 for k in curve.samples])
    assert curve.median == pytest.approx([499.5] * len(curve.samples))
    assert curve.maximum_error == [0.0] * len(curve.samples)


@pytest.mark.parametrize("scores", [[], [[]], [[1.0], []], [[math.nan]], [[1.0, math.inf]]])
def test_no_scores_and_no_numbers_are_errors(scores):
    with pytest.raises(ArrieroError, match="reward curve: expected finite scores"):
        reward_curve(scores)


def test_places_that_are_none_are_errors():
    for k, place in ((0, 0), (3, 1), (2, 3), (1, 0)):
        with pytest.raises(ArrieroError, match="expected a place"):
            expected_place([1.0, 2.0], k, place)
