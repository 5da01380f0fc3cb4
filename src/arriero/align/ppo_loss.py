"""PPO's two losses (Schulman et al., arXiv 1707.06347, equations 7 and 9), of the tokens of answers.

Sums, not means: the loop divides by the tokens of the whole mini-batch, so that micro-batches are parts of it and
nothing else. Llama 2 (arXiv 2307.09288, section 3.2.3) clips the ratio at 0.2; it does not say what the values' loss is
or weighs: here it is clipped too (Stiennon et al., arXiv 2009.01325), and its weight is the trainer's to choose.

N tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of the policy, and what it was made of."""

    total: Tensor
    """Sum over tokens, differentiable by the log-probabilities."""
    ratios: Tensor
    """(N,) π / π_old, 1 as long as nothing was learnt."""
    clipped: Tensor
    """(N,) bool, where the clipped objective is the lesser one: those tokens give no gradient."""


@dataclass(frozen=True)
class ValueLoss:
    """The loss of the critic."""

    total: Tensor
    """Sum over tokens, differentiable by the values."""
    clipped: Tensor
    """(N,) bool, where the clipped value's loss is the greater one."""


def policy_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, clip: float = 0.2) -> PolicyLoss:
    """−Σ min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) with ρ = π / π_old.

    Args:
        logprobs: (N,) of the tokens, now.
        old: (N,) when they were sampled.
        advantages: (N,) A.
        clip: ε.
    """
    ratios = torch.exp(logprobs - old)
    free, bounded = ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages
    total = -torch.minimum(free, bounded).sum()
    return PolicyLoss(total, ratios.detach(), (bounded < free).detach())


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float = 0.2) -> ValueLoss:
    """½ Σ max((V − R)², (V_old + clip(V − V_old, −ε, ε) − R)²).

    Args:
        values: (N,) now.
        old: (N,) when the tokens were sampled.
        returns: (N,) R, made of the old values.
        clip: ε.
    """
    bounded = old + (values - old).clamp(-clip, clip)
    free_loss, bounded_loss = (values - returns).square(), (bounded - returns).square()
    total = torch.maximum(free_loss, bounded_loss).sum() / 2
    return ValueLoss(total, (bounded_loss > free_loss).detach())
