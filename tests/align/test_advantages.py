"""GAE and whitening, against sums by hand in float64."""

import math

import pytest
import torch

from arriero.align.advantages import explained_variance, gae, whiten
from arriero.common.errors import ArrieroError

NAN = math.nan


def by_hand(rewards: list[float], values: list[float], discount: float, decay: float) -> list[float]:
    """Σ_k (γλ)^k δ_{t+k}, each sum from its beginning."""
    behind = [*values[1:], 0.0]
    deltas = [r + discount * after - v for r, v, after in zip(rewards, values, behind, strict=True)]
    return [sum((discount * decay) ** k * delta for k, delta in enumerate(deltas[t:])) for t in range(len(rewards))]


@pytest.mark.parametrize(("discount", "decay"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (1.0, 0.0)])
def test_gae_is_the_sum_by_hand_for_answers_of_every_length(discount, decay):
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    values = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    lengths = [7, 1, 4, 6]
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    advantages, returns = gae(rewards, values, mask, discount=discount, decay=decay)
    for row, length in enumerate(lengths):
        expected = by_hand(rewards[row, :length].tolist(), values[row, :length].tolist(), discount, decay)
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-12)
        assert returns[row, :length].tolist() == pytest.approx(
            [a + v for a, v in zip(expected, values[row, :length].tolist(), strict=True)], abs=1e-12
        )
        assert not advantages[row, length:].any()


def test_with_gamma_and_lambda_1_an_advantage_is_all_that_is_still_earned_less_what_was_expected():
    rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.5, 0.25, 8.0]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), decay=1.0)
    assert advantages.tolist() == [[6.5, 5.75, -4.0]]
    assert returns.tolist() == [[7.0, 6.0, 4.0]]


def test_a_masked_nan_poisons_nothing():
    rewards, values = torch.tensor([[1.0, NAN], [1.0, 2.0]]), torch.tensor([[0.5, NAN], [0.0, 0.0]])
    mask = torch.tensor([[True, False], [True, True]])
    advantages, returns = gae(rewards, values, mask)
    assert advantages.isfinite().all()
    assert returns.isfinite().all()
    assert advantages[0].tolist() == [0.5, 0.0]
    whitened = whiten(torch.tensor([1.0, 3.0, NAN]), torch.tensor([True, True, False]))
    assert whitened.tolist() == pytest.approx([-1.0, 1.0, 0.0], abs=1e-6)


def test_answers_may_begin_behind_padding_too():
    rewards, values = torch.tensor([[NAN, 1.0, 2.0]]), torch.tensor([[NAN, 0.0, 1.0]])
    advantages, _ = gae(rewards, values, torch.tensor([[False, True, True]]), decay=1.0)
    assert advantages.tolist() == [[0.0, 3.0, 1.0]]


def test_whitening_has_mean_0_and_the_biased_variance_1_over_real_tokens():
    values = torch.tensor([[1.0, 2.0, 99.0], [4.0, 7.0, 2.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    kept = whiten(values, mask)[mask]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-12)
    assert float(kept.square().mean()) == pytest.approx(1, abs=1e-6)


def test_whitening_without_a_shift_keeps_the_mean():
    values = torch.tensor([3.0, 5.0, 10.0], dtype=torch.float64)
    whitened = whiten(values, shift=False)
    assert float(whitened.mean()) == pytest.approx(6.0)
    assert float(whitened.var(unbiased=False)) == pytest.approx(1, abs=1e-6)


def test_equal_values_whiten_to_0_and_one_value_too():
    assert whiten(torch.full((3,), 5.0)).tolist() == [0.0, 0.0, 0.0]
    assert whiten(torch.tensor([7.0])).tolist() == [0.0]


def test_explained_variance_is_1_for_the_truth_and_0_for_a_constant():
    returns = torch.tensor([1.0, 2.0, 5.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.zeros(3), returns) == 0
    assert explained_variance(-returns, returns) < 0
    assert math.isnan(explained_variance(returns, torch.ones(3)))


def test_shapes_and_shares_that_cannot_be_are_refused():
    ones = torch.ones(2, 3)
    with pytest.raises(ArrieroError, match="one shape"):
        gae(ones, ones, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ArrieroError, match="decay"):
        gae(ones, ones, ones.bool(), decay=1.5)
