"""Divergence, rewards of tokens, and who sets β."""

import pytest
import torch

from arriero.align.kl import AdaptiveBeta, FixedBeta, divergence, token_rewards
from arriero.common.errors import ArrieroError


@pytest.fixture
def sampled():
    """A policy, a reference, and many tokens that the policy sampled: their log-probabilities, and the divergence."""
    generator = torch.Generator().manual_seed(0)
    policy = torch.log_softmax(torch.randn(9, generator=generator, dtype=torch.float64), 0)
    reference = torch.log_softmax(torch.randn(9, generator=generator, dtype=torch.float64), 0)
    tokens = torch.multinomial(policy.exp(), 40_000, replacement=True, generator=generator)
    return policy[tokens], reference[tokens], float((policy.exp() * (policy - reference)).sum())


def test_k1_and_k3_are_unbiased_and_k2_and_k3_never_negative(sampled):
    policy, reference, truth = sampled
    found = divergence(policy, reference)
    for estimate in (found.k1, found.k3):
        error = float(estimate.std()) / len(estimate) ** 0.5
        assert float(estimate.mean()) == pytest.approx(truth, abs=4 * error)
    assert float(found.k1.min()) < 0
    assert float(found.k2.min()) >= 0
    assert float(found.k3.min()) >= 0


def test_the_mean_of_k1_is_at_least_0_within_its_error(sampled):
    policy, reference, _ = sampled
    k1 = divergence(policy, reference).k1
    assert float(k1.mean()) >= -4 * float(k1.std()) / len(k1) ** 0.5


def test_equal_policies_have_no_divergence():
    logprobs = torch.tensor([-1.5, -0.25, -9.0])
    found = divergence(logprobs, logprobs)
    assert not torch.cat([found.k1, found.k2, found.k3]).any()


def test_k3_is_exact_for_small_differences():
    found = divergence(torch.tensor([-1.0]), torch.tensor([-1.0001]))
    assert float(found.k3) == pytest.approx(5e-9, rel=1e-2)


def test_k1_in_the_reward_is_never_clamped_and_the_score_comes_once_with_the_last_token():
    k1 = torch.tensor([-30.0, 0.0, 50.0], dtype=torch.float64)
    assert token_rewards(k1, 2.0, 0.1).tolist() == pytest.approx([3.0, 0.0, -3.0])
    assert k1.tolist() == [-30.0, 0.0, 50.0]


def test_an_adaptive_beta_follows_its_formula():
    controller = AdaptiveBeta(0.15, target=6.0, horizon=10_000)
    controller.update(6.0 * 1.1, 512)
    assert controller.beta == pytest.approx(0.15 * (1 + 0.1 * 512 / 10_000))
    controller = AdaptiveBeta(0.15)
    controller.update(1000.0, 512)
    assert controller.beta == pytest.approx(0.15 * (1 + 0.2 * 512 / 10_000)), "the error is clipped at 0.2"
    controller.update(-5.0, 512)
    assert controller.beta == pytest.approx(0.15 * (1 + 0.2 * 0.0512) * (1 - 0.2 * 0.0512))


def test_controllers_keep_their_state_and_a_fixed_beta_stays():
    controller, other = AdaptiveBeta(0.2), AdaptiveBeta(0.9)
    controller.update(60.0, 100)
    other.load_state_dict(controller.state_dict())
    assert other.beta == controller.beta
    fixed = FixedBeta(0.01)
    fixed.update(1000.0, 512)
    assert fixed.beta == 0.01


def test_a_beta_that_cannot_be_is_refused():
    with pytest.raises(ArrieroError, match="beta"):
        FixedBeta(-0.1)
    with pytest.raises(ArrieroError, match="adaptive"):
        AdaptiveBeta(0.0)
