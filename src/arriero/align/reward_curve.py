"""What more samples a prompt would bring: Llama 2's figure of the maximum and the median reward among K samples
(arXiv 2307.09288, section 3.2.3).

N samples are there; of K ≤ N of them, drawn without replacement, the j-th smallest is the i-th smallest of all with the
chance C(i − 1, j − 1) C(N − i, K − j) / C(N, K). So the expectation over all draws is a weighted sum of the sorted
scores: unbiased, exact, and with nothing left to chance; and the maximum never falls as K grows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError

_NORMAL_95 = 1.959964
_POINTS = 32
"""Most numbers of samples that a curve tells of."""


@dataclass(frozen=True, kw_only=True)
class RewardCurve:
    """Means over prompts, for each number of samples; all lists of one length."""

    prompts: int
    samples: list[int]
    """K."""
    maximum: list[float]
    """Expected best score of K samples."""
    maximum_error: list[float] | None
    """Half of its 95% interval over prompts; None for one prompt."""
    median: list[float]
    """Expected median score of K samples."""
    median_error: list[float] | None


def reward_curve(scores: Sequence[Sequence[float]]) -> RewardCurve:
    """The curve up to the number of samples that all prompts have.

    Args:
        scores: of each prompt's samples.

    Raises:
        ArrieroError: there is no prompt, one without samples, or a score that is not finite.
    """
    count = min(map(len, scores), default=0)
    if not count or not all(math.isfinite(score) for row in scores for score in row):
        raise ArrieroError(f"reward curve: expected finite scores of 1 sample or more for each prompt, got {count}")
    places = _places(count)
    best = np.array([[expected_best(row, k) for k in places] for row in scores])  # (prompts, K)
    middle = np.array([[expected_median(row, k) for k in places] for row in scores])  # (prompts, K)
    return RewardCurve(
        prompts=len(scores),
        samples=places,
        maximum=best.mean(0).tolist(),
        maximum_error=_half_interval(best),
        median=middle.mean(0).tolist(),
        median_error=_half_interval(middle),
    )


def expected_best(scores: Sequence[float], k: int) -> float:
    """The expected maximum of `k` of the scores."""
    return expected_place(scores, k, k)


def expected_median(scores: Sequence[float], k: int) -> float:
    """The expected median of `k` of the scores: of an even number, the mean of the two in the middle."""
    return (expected_place(scores, k, (k + 1) // 2) + expected_place(scores, k, k // 2 + 1)) / 2


def expected_place(scores: Sequence[float], k: int, place: int) -> float:
    """The expected `place`-th smallest, from 1, of `k` of the scores, drawn without replacement.

    Raises:
        ArrieroError: there are fewer than `k` scores, or the place is none of 1 to `k`.
    """
    n = len(scores)
    if not 1 <= place <= k <= n:
        raise ArrieroError(f"expected a place from 1 to k and k up to {n}, the scores there are; got {place} and {k}")
    ways = math.comb(n, k)
    weights = [math.comb(i - 1, place - 1) * math.comb(n - i, k - place) / ways for i in range(1, n + 1)]
    return math.fsum(weight * score for weight, score in zip(weights, sorted(scores), strict=True))


def _places(count: int) -> list[int]:
    """1 to `count`, all or evenly by their logarithms."""
    if count <= _POINTS:
        return list(range(1, count + 1))
    return sorted({round(count ** (i / (_POINTS - 1))) for i in range(_POINTS)})


def _half_interval(values: NDArray[np.float64]) -> list[float] | None:
    """Of each column's mean."""
    if len(values) < 2:
        return None
    errors: list[float] = (_NORMAL_95 * values.std(0, ddof=1) / math.sqrt(len(values))).tolist()
    return errors
