"""How often one version's answers are preferred to another's, and how often they would be at equal length.

Judges like long answers, and a policy that learns from a judge finds that out. The second rate takes length out of the
first, as AlpacaEval 2 does (Dubois et al., arXiv 2404.04475): a logistic regression of who wins on how the lengths
differ, read where they do not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError

_NORMAL_95 = 1.959964
_STEPS = 50
_RIDGE = 1e-2
"""Keeps the slope finite where the longer answer always wins."""
_RESAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """Of the new against the old, over the same prompts."""

    prompts: int
    wins: int
    ties: int
    """Count half in the rate."""
    rate: float
    low: float
    """Of the 95% interval (Wilson)."""
    high: float
    equal_length: float
    """The rate at equal length."""
    equal_length_low: float
    """Of the 95% interval (bootstrap over prompts)."""
    equal_length_high: float


def win_rate(
    old: Sequence[float], new: Sequence[float], old_lengths: Sequence[int], new_lengths: Sequence[int], *, seed: int = 0
) -> WinRate:
    """Compare the scores of two versions' answers to the same prompts.

    Args:
        old: scores of the answers that are compared with.
        new: scores of the answers in question.
        old_lengths: of those answers, in any unit.
        new_lengths: likewise.
        seed: of the bootstrap.

    Raises:
        ArrieroError: there are no prompts, or a score is not finite.
    """
    if not old or not np.isfinite([*old, *new]).all():
        raise ArrieroError(f"win rate: expected finite scores of 1 prompt or more, got {len(old)}")
    differences = np.subtract(new, old)
    outcomes = (np.sign(differences) + 1) / 2  # 1, ½ or 0
    wins, ties = int((differences > 0).sum()), int((differences == 0).sum())
    low, high = wilson(float(outcomes.sum()), len(outcomes))
    longer = np.subtract(new_lengths, old_lengths).astype(np.float64)
    spread = longer.std()
    longer = np.tanh(longer / spread) if spread > 0 else np.zeros_like(longer)
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(outcomes), size=(_RESAMPLES, len(outcomes)))
    resampled = [_at_equal_length(outcomes[draw], longer[draw]) for draw in draws]
    return WinRate(
        prompts=len(outcomes),
        wins=wins,
        ties=ties,
        rate=float(outcomes.mean()),
        low=low,
        high=high,
        equal_length=_at_equal_length(outcomes, longer),
        equal_length_low=float(np.quantile(resampled, 0.025)),
        equal_length_high=float(np.quantile(resampled, 0.975)),
    )


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share; (0, 1) of no trials."""
    if not trials:
        return 0.0, 1.0
    z, share = _NORMAL_95, successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, min(share, (middle - half) / scale)), min(1.0, max(share, (middle + half) / scale))


def _at_equal_length(outcomes: NDArray[np.float64], longer: NDArray[np.float64]) -> float:
    """σ(a) of the fit P(win) = σ(a + b · longer), by Newton's method on the log-likelihood."""
    inputs = np.stack([np.ones_like(longer), longer], axis=1)  # (n, 2)
    weights = np.zeros(2)
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))  # (n,)
        slope = inputs.T @ (outcomes - chances) - _RIDGE * weights  # (2,)
        curvature = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    return float(1 / (1 + np.exp(-weights[0])))
