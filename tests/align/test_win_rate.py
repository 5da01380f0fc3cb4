"""Win rates: intervals by hand, ties, and what is left of a victory that is all length."""

import math

import numpy as np
import pytest

from arriero.align.win_rate import wilson, win_rate
from arriero.common.errors import ArrieroError


def test_wilson_s_interval_is_that_of_the_textbook():
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_wilson_stays_within_0_and_1_and_knows_nothing_of_no_trials():
    assert wilson(0, 5)[0] == 0
    for trials in range(1, 60):
        assert wilson(0, trials)[0] == 0.0
        assert wilson(trials, trials)[1] == 1.0, "not a rounding below: what is drawn from the share to here is no gap"
    assert wilson(0, 0) == (0.0, 1.0)


def test_ties_count_half():
    found = win_rate([0, 0, 0, 0], [1, 0, 0, -1], [5] * 4, [5] * 4)
    assert (found.wins, found.ties, found.rate) == (1, 2, 0.5)
    assert found.low < 0.5 < found.high


def test_at_equal_lengths_both_rates_are_one():
    found = win_rate([0.0] * 10, [1.0] * 7 + [-1.0] * 3, [9] * 10, [9] * 10)
    assert found.rate == 0.7
    assert found.equal_length == pytest.approx(0.7, abs=0.01)


def test_a_victory_that_is_all_length_is_none_at_equal_length():
    generator = np.random.default_rng(0)
    lengths = generator.normal(0, 20, 1500)
    gap = 15 + generator.normal(0, 15, 1500)  # the new answers are longer, some of them shorter
    wins = generator.random(1500) < 1 / (1 + np.exp(-4 * np.tanh(gap / gap.std())))
    found = win_rate([0.0] * 1500, np.where(wins, 1.0, -1.0).tolist(), lengths.tolist(), (lengths + gap).tolist())
    assert found.rate > 0.7
    assert found.equal_length_low < 0.5 < found.equal_length_high


def test_always_winning_gives_finite_numbers():
    found = win_rate([0.0] * 6, [1.0] * 6, [1] * 6, [2, 3, 4, 5, 6, 7])
    assert found.rate == 1.0
    assert math.isfinite(found.equal_length)


def test_the_same_seed_is_the_same_interval():
    rows = ([0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [1, 2, 3], [3, 2, 2])
    assert win_rate(*rows, seed=4) == win_rate(*rows, seed=4)


@pytest.mark.parametrize("scores", [[], [float("nan")]])
def test_no_prompts_and_scores_that_are_no_numbers_are_refused(scores):
    with pytest.raises(ArrieroError, match="finite scores"):
        win_rate(scores, scores, [1] * len(scores), [1] * len(scores))
