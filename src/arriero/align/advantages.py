"""How much better than expected each token of an answer turned out: GAE, and whitening (PPO, arXiv 1707.06347).

An answer is an episode: its tokens are the actions, and it ends with its last token. Llama 2 (arXiv 2307.09288) does
not say which λ or whether advantages are whitened; these are the choices of InstructGPT and its forerunners (Stiennon
et al., arXiv 2009.01325; Ziegler et al., arXiv 1909.08593).

What is masked is replaced before anything is computed of it, so that not even a NaN there reaches the rest.

B answers, T tokens of the longest one.
"""

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float = 1.0, decay: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates (Schulman et al., arXiv 1506.02438, equation 16).

    δ_t = r_t + γ V_{t+1} − V_t, with V = 0 behind an answer's last token; A_t = δ_t + γ λ A_{t+1}.

    Args:
        rewards: (B, T) of each token.
        values: (B, T) expected before each token, by the critic that was there when it was sampled.
        mask: (B, T) bool, the tokens that are there; each answer's are neighbours.
        discount: γ.
        decay: λ.

    Returns:
        Advantages A (B, T) and returns A + V (B, T), 0 where masked.

    Raises:
        ArrieroError: the shapes differ, or γ or λ is not from 0 to 1.
    """
    if not rewards.shape == values.shape == mask.shape or rewards.dim() != 2:
        shapes = f"{tuple(rewards.shape)}, {tuple(values.shape)} and {tuple(mask.shape)}"
        raise ArrieroError(f"expected rewards, values and mask of one shape (answers, tokens), got {shapes}")
    for name, share in (("discount", discount), ("decay", decay)):
        if not 0 <= share <= 1:
            raise ArrieroError(f"{name}: expected a number from 0 to 1, got {share}")
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(rewards)
    following = value = rewards.new_zeros(len(rewards))  # (B,) A_{t+1} and V_{t+1}
    for t in range(rewards.shape[1] - 1, -1, -1):
        surprise = rewards[:, t] + discount * value - values[:, t]  # (B,) δ_t
        following = torch.where(mask[:, t], surprise + discount * decay * following, 0.0)
        value = values[:, t]
        advantages[:, t] = following
    return advantages, advantages + values


def whiten(values: Tensor, mask: Tensor | None = None, *, shift: bool = True) -> Tensor:
    """Values with variance 1 and, with `shift`, mean 0, over what is not masked; 0 where masked.

    The variance is the biased one, Σ(x − x̄)²/n. What does not vary is left with variance 0, not blown up.

    Args:
        values: of any shape.
        mask: bool, of the same shape; all by default.
        shift: move the mean to 0; else it stays what it was.
    """
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    known = torch.where(mask, values, 0.0)
    count = mask.sum().clamp(min=1)
    mean = known.sum(dtype=torch.float64) / count
    centred = torch.where(mask, values - mean, 0.0)
    variance = centred.double().square().sum() / count
    scaled = centred * (variance + 1e-8).rsqrt()
    whitened = scaled if shift else scaled + mean
    return torch.where(mask, whitened, 0.0).to(values.dtype)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 − Var(R − V) / Var(R): 1 for a critic that knows the returns, 0 for a constant, below for one that misleads.

    Args:
        values, returns: (N,) of all tokens; NaN where the returns do not vary.
    """
    spread = returns.double().var(unbiased=False)
    left = (returns.double() - values.double()).var(unbiased=False)
    return float(1 - left / spread) if spread > 0 else float("nan")
