"""PPO's losses against sums by hand in float64, and where their gradients go."""

import pytest
import torch

from arriero.align.ppo_loss import policy_loss, value_loss


def doubles(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def test_the_policy_loss_by_hand_in_all_four_corners():
    old = doubles(-1.0, -1.0, -1.0, -1.0, -1.0)
    ratios = [1.5, 0.5, 1.5, 0.5, 1.1]
    advantages = [2.0, 2.0, -2.0, -2.0, 1.0]
    logprobs = (old + doubles(*ratios).log()).detach().requires_grad_()
    loss = policy_loss(logprobs, old, doubles(*advantages))
    expected = -(1.2 * 2 + 0.5 * 2 - 1.5 * 2 - 0.8 * 2 + 1.1)
    assert loss.total.item() == pytest.approx(expected, abs=1e-12)
    assert loss.clipped.tolist() == [True, False, False, True, False]
    loss.total.backward()
    gradients = [0.0, -0.5 * 2, 1.5 * 2, 0.0, -1.1]
    assert logprobs.grad.tolist() == pytest.approx(gradients, abs=1e-12), "what is clipped gives no gradient"


def test_while_nothing_is_learnt_all_ratios_are_exactly_1():
    old = torch.randn(100, generator=torch.Generator().manual_seed(0))
    loss = policy_loss(old.clone(), old, torch.ones(100))
    assert (loss.ratios == 1).all()
    assert not loss.clipped.any()
    assert loss.total.item() == -100


def test_the_value_loss_is_half_the_greater_one():
    values = doubles(1.0, 0.1, -1.0, 0.0, grad=True)
    loss = value_loss(values, doubles(0.0, 0.0, 0.0, 0.0), doubles(2.0, 2.0, 2.0, -3.0))
    expected = (1.8**2 + 1.9**2 + 3.0**2 + 3.0**2) / 2
    assert loss.total.item() == pytest.approx(expected, abs=1e-12)
    assert loss.clipped.tolist() == [True, False, False, False]
    loss.total.backward()
    assert values.grad.tolist() == pytest.approx([0.0, -1.9, -3.0, 3.0], abs=1e-12)


def test_sums_of_parts_are_the_sum():
    generator = torch.Generator().manual_seed(2)
    a, b, c = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    whole = policy_loss(a, b, c).total
    assert float(policy_loss(a[:7], b[:7], c[:7]).total + policy_loss(a[7:], b[7:], c[7:]).total) == pytest.approx(
        float(whole)
    )
    values = value_loss(a, b, c).total
    assert float(value_loss(a[:7], b[:7], c[:7]).total + value_loss(a[7:], b[7:], c[7:]).total) == pytest.approx(
        float(values)
    )
