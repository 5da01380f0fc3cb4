"""How far the policy has gone from where it began, and what that costs (Ziegler et al., arXiv 1909.08593, section 2.2).

R(g | p) = R̃(g | p) − β D_KL(π(g | p) ‖ π_0(g | p)) (Llama 2, arXiv 2307.09288, section 3.2.3). The penalty is paid
token by token, the score once, with the last one. The paper does not say how the divergence is estimated. In the reward
it is k1 here, log π − log π_0 of the sampled tokens: unbiased, negative where it is negative, never clamped. k2 and k3
(Schulman, "Approximating KL Divergence", 2020) vary less, and are for the eye: as a loss k1's gradient is 0 on average
and k3's is not the divergence's.

N tokens of an answer.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError


@dataclass(frozen=True)
class Divergence:
    """Three estimates of D_KL(π ‖ π_0) at each token (N,), in nats, of tokens that π sampled."""

    k1: Tensor
    """log π − log π_0: unbiased, of either sign."""
    k2: Tensor
    """k1² / 2: never negative, little variance, biased."""
    k3: Tensor
    """e^{−k1} − 1 + k1: never negative, unbiased."""


def divergence(logprobs: Tensor, reference: Tensor) -> Divergence:
    """The estimates, of the log-probabilities (N,) that both give to the tokens."""
    k1 = logprobs - reference
    return Divergence(k1=k1, k2=k1.square() / 2, k3=torch.expm1(-k1) + k1)


def token_rewards(k1: Tensor, score: float, beta: float) -> Tensor:
    """What each token of an answer earns (N,): −β k1, and the last one the score too."""
    rewards = -beta * k1
    rewards[-1] += score
    return rewards


class Controller(Protocol):
    """Who sets β."""

    @property
    def beta(self) -> float:
        """What a nat of divergence costs now."""

    def update(self, kl: float, answers: int) -> None:
        """Learn of an iteration: its mean divergence in nats an answer, and how many answers it had."""

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""

    def load_state_dict(self, state: dict[str, float]) -> None:
        """As the checkpoint had it."""


class FixedBeta:
    """β stays what it is, as in Llama 2."""

    def __init__(self, beta: float) -> None:
        if not 0 <= beta < float("inf"):
            raise ArrieroError(f"beta: expected a number of 0 or more, got {beta}")
        self.beta = beta

    def update(self, kl: float, answers: int) -> None:
        """Nothing changes."""

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on with a checkpoint's."""
        self.beta = state["beta"]


class AdaptiveBeta:
    """β rises where the divergence is above a target, and falls where it is below (Ziegler et al., section 2.2).

    e = clip(KL / target − 1, −0.2, 0.2); β ← β (1 + e · answers / horizon).
    """

    def __init__(self, beta: float = 0.15, *, target: float = 6.0, horizon: float = 10_000.0) -> None:
        """Begin with a β.

        Args:
            beta: the first one.
            target: nats an answer.
            horizon: answers in which β would change by a fifth of itself, at most.
        """
        for name, value in (("beta", beta), ("target", target), ("horizon", horizon)):
            if not 0 < value < float("inf"):
                raise ArrieroError(f"{name}: expected a number above 0 for an adaptive beta, got {value}")
        self.beta, self.target, self.horizon = beta, target, horizon

    def update(self, kl: float, answers: int) -> None:
        """Learn what the divergence of some answers was, on average, in nats an answer."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.beta *= 1 + error * answers / self.horizon

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on with a checkpoint's."""
        self.beta = state["beta"]
