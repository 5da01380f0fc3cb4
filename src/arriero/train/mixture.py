"""How much of each source a model sees: LLaMA's sampling proportions and epochs (section 2.1, Table 1).

Rows of tokens are dealt out to the sources by their weights: each row goes to the source that is owed most. So every
stretch of a run has the planned shares to within a row, where drawing lots, as the paper does, has them on average.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arriero.common.errors import ArrieroError

TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One line of Table 1, for a run of so many tokens."""

    source: str
    weight: float
    """Share of the tokens."""
    tokens_available: int
    planned_tokens: int
    planned_epochs: float


def plan_mixture(weights: Mapping[str, float], available: Mapping[str, int], total_tokens: int) -> list[PlanRow]:
    """The table of a run of `total_tokens`: what each source gives, and how often it is gone through.

    Raises:
        ArrieroError: a source is empty, or has no weight, or a weight no source.
    """
    if weights.keys() != available.keys():
        lone = ", ".join(sorted(weights.keys() ^ available.keys()))
        raise ArrieroError(f"expected a weight for each source and a source for each weight, got only one for {lone}")
    for source, tokens in available.items():
        if tokens < 1:
            raise ArrieroError(f"source '{source}' is empty: it has no tokens")
    return [
        PlanRow(
            source=source,
            weight=weight,
            tokens_available=available[source],
            planned_tokens=round(weight * total_tokens),
            planned_epochs=weight * total_tokens / available[source],
        )
        for source, weight in weights.items()
    ]


def check_weights(weights: Mapping[str, float], *, normalise: bool = False) -> dict[str, float]:
    """The weights, which sum to 1, or are made to if `normalise`.

    Raises:
        ArrieroError: there is none, one is no positive number, or they do not sum to 1.
    """
    if not weights:
        raise ArrieroError("expected at least one source, got none")
    for source, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ArrieroError(f"source '{source}': expected a positive weight, got {weight}")
    total = math.fsum(weights.values())
    if not normalise and abs(total - 1) > TOLERANCE:
        listed = ", ".join(f"{source}={weight:g}" for source, weight in weights.items())
        raise ArrieroError(
            f"weights sum to {total:.6g}, expected 1 ({listed}): mend them, or ask for them to be normalised"
        )
    return {source: weight / total for source, weight in weights.items()}


class Dealer:
    """Deals rows out to sources: a source earns its weight with each row, and pays 1 for a row that it gets."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = list(weights)
        self.credits = [0.0] * len(weights)
        """What each source is owed, in rows: all the state there is."""

    def deal(self) -> int:
        """The number of the source that gives the next row; of those owed alike the first."""
        owed = [credit + weight for credit, weight in zip(self.credits, self._weights, strict=True)]
        chosen = owed.index(max(owed))
        owed[chosen] -= 1.0
        self.credits = owed
        return chosen
