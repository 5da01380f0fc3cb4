"""Pairs judged by a scorer in an annotator's place: marked as such, and as sure as the gap between the scores.

A reward model's loss −log σ(r_c − r_r) takes σ of the gap for the chance that the better one is preferred (Llama 2,
arXiv 2307.09288, equation 1). How many of the paper's four degrees that is, it does not say; the bounds here are ours.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from arriero.align.combine import check_finite
from arriero.align.preferences import Degree, Judgement, Kind, Pair, Preferences, Safety
from arriero.align.scoring import Scorer, judge_of
from arriero.common.errors import ArrieroError

DEGREES: tuple[tuple[float, Degree], ...] = (
    (0.95, "significantly better"),
    (0.80, "better"),
    (0.60, "slightly better"),
    (0.50, "negligibly better"),
)
"""Least chance σ(gap) of each degree: gaps of 2.94, 1.39 and 0.41 are the bounds between them."""
SAFE = 0.5
"""Least σ of a safety score that is called safe: where the loss of a classifier is least undecided."""
_PORTION = 32


@dataclass(kw_only=True)
class Judged:
    """What became of the pairs; counts, as they grow."""

    judged: int = 0
    ties: int = 0
    """Left unjudged: both responses have one score."""
    flagged: int = 0
    """Of the judged: an unsafe response was preferred to a safe one."""


def judge_pending(
    preferences: Preferences, scorer: Scorer, *, batch: str, kind: Kind | None = None, safety: Scorer | None = None
) -> Iterator[Judged]:
    """Judge the pairs that this scorer has not judged; yields the counts as they grow.

    Args:
        batch: the name of the batch.
        kind: only these pairs.
        safety: tells which responses to pairs of the kind safety are safe; without it they get no label.

    Raises:
        ArrieroError: the scorer fails, or gives what is no finite number; earlier judgements stay.
    """
    counts = Judged()
    yield counts
    waiting = preferences.pending(scorer.name, kind)
    while pairs := [pair for pair, _ in zip(waiting, range(_PORTION), strict=False)]:
        scores = _scores(scorer, pairs)
        labelled = [pair for pair in pairs if pair.kind == "safety"] if safety is not None else []
        safe = dict(zip([pair.id for pair in labelled], _scores(safety, labelled), strict=True)) if safety else {}
        for pair, (first, second) in zip(pairs, scores, strict=True):
            judgement = judgement_of(first, second, safe.get(pair.id), scorer, batch)
            if judgement is None:
                counts.ties += 1
                continue
            preferences.judge(pair.id, judgement)
            counts.judged += 1
            counts.flagged += judgement.flagged
        yield counts


def judgement_of(
    first: float, second: float, safe: tuple[float, float] | None, scorer: Scorer, batch: str
) -> Judgement | None:
    """What two raw scores say of two responses; None where they are equal.

    Args:
        safe: raw safety scores of both, where they are to be labelled.
    """
    if first == second:
        return None
    return Judgement(
        choice=1 if first > second else 2,
        degree=degree_of(abs(first - second)),
        safety=None if safe is None else safety_of(*(safe if first > second else safe[::-1])),
        annotator=scorer.name,
        judge=judge_of(scorer),
        batch=batch,
    )


def degree_of(gap: float) -> Degree:
    """How much better a response is whose raw score is so much higher.

    Raises:
        ArrieroError: the gap is negative or no number.
    """
    if not gap >= 0:
        raise ArrieroError(f"gap: expected a number of 0 or more, got {gap}")
    chance = 1 / (1 + math.exp(-min(gap, 100.0)))
    return next(degree for least, degree in DEGREES if chance >= least)


def safety_of(chosen: float, other: float) -> Safety:
    """The paper's bin for two raw safety scores."""
    bound = math.log(SAFE / (1 - SAFE))
    bins: dict[tuple[bool, bool], Safety] = {
        (True, False): "chosen safe",
        (True, True): "both safe",
        (False, False): "both unsafe",
        (False, True): "chosen unsafe",
    }
    return bins[chosen >= bound, other >= bound]


def _scores(scorer: Scorer, pairs: list[Pair]) -> list[tuple[float, float]]:
    """Of the first and the second response of each pair."""
    texts = [text for pair in pairs for text in (pair.first.text, pair.second.text)]
    scores = scorer.score([pair.prompt for pair in pairs for _ in range(2)], texts)
    check_finite(scores, scorer.name)
    if len(scores) != len(texts):
        raise ArrieroError(f"{scorer.name}: expected {len(texts)} scores, got {len(scores)}")
    return list(zip(scores[::2], scores[1::2], strict=True))
