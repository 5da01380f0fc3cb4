"""The reward of two reward models: which of them speaks, in raw scores, and what whitening leaves."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arriero.align.combine import UNSAFE, check_finite, combine
from arriero.align.experience import Moments
from arriero.common.errors import ArrieroError

SCORES = st.floats(-1e4, 1e4)


def sigmoid(score):
    return 1 / (1 + math.exp(-score)) if score > -700 else 0.0


@given(SCORES, SCORES, st.booleans())
def test_safety_speaks_where_it_is_asked_or_low(helpful, safe, asked):
    combined = combine([helpful], [safe], [asked])[0]
    if abs(sigmoid(safe) - UNSAFE) > 1e-12:
        assert combined == (safe if asked or sigmoid(safe) < UNSAFE else helpful)


@pytest.mark.parametrize("score", [1e4, -1e4, 40.0, -40.0])
def test_scores_are_never_sent_through_a_sigmoid_and_back(score):
    """logit(σ(40)) is infinite in fp32; the combined score is the head's own output, to the bit."""
    assert combine([score], [0.0], [False]) == [score]
    assert combine([0.0], [score], [True]) == [score]
    moments = Moments.of([score, 0.0])
    assert moments.normalise(score) == pytest.approx(math.copysign(1, score))


def test_a_score_just_under_the_bound_is_unsafe():
    bound = math.log(0.15 / 0.85)
    assert combine([5.0, 5.0], [bound - 1e-9, bound + 1e-9], [False, False]) == [bound - 1e-9, 5.0]


@given(st.lists(SCORES, min_size=2, max_size=20))
def test_whitened_scores_have_mean_0_and_biased_variance_1_or_do_not_vary(scores):
    """R̃ of a batch, as PPO makes it."""
    moments = Moments.of(scores)
    whitened = torch.tensor([moments.normalise(score) for score in scores], dtype=torch.float64)
    assert whitened.mean().item() == pytest.approx(0, abs=1e-6)
    if max(scores) - min(scores) > 1e-2:
        assert whitened.std(unbiased=False).item() == pytest.approx(1, abs=1e-6)
        assert (whitened[torch.tensor(scores, dtype=torch.float64).argsort()].diff() >= 0).all()


def test_one_score_alone_is_0():
    assert Moments.of([7.5]).normalise(7.5) == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_one_clear_error(value):
    with pytest.raises(ArrieroError, match="safety: expected finite scores"):
        combine([0.0], [value], [False])
    with pytest.raises(ArrieroError, match="for response 2"):
        combine([0.0, value], [0.0, 0.0], [False, False])
    with pytest.raises(ArrieroError, match="judge: expected finite scores"):
        check_finite([value], "judge")


def test_counts_and_shares_that_do_not_fit_are_errors():
    with pytest.raises(ArrieroError, match="got 2, 1 and 1"):
        combine([0.0, 1.0], [0.0], [False])
    with pytest.raises(ArrieroError, match="between 0 and 1"):
        combine([0.0], [0.0], [False], unsafe=1.0)
