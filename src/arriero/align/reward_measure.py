"""What a reward model is worth on comparisons that it has not seen (Llama 2, arXiv 2307.09288, section 3.2.2, Table 8).

Accuracy is the share of pairs whose better response scores higher; pairs that tie are counted apart, never as right.
It stands beside two rules that know nothing but lengths, as a reward model may have learnt no more than one of them.
Intervals are Wilson's, as if pairs were independent; several pairs of one prompt are less than that.

P pairs.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from arriero.align.preferences import Degree, Kind
from arriero.align.reward_data import TokenPair
from arriero.align.reward_loss import UNKNOWN
from arriero.align.reward_model import RewardModel
from arriero.align.win_rate import wilson
from arriero.common.errors import ArrieroError, FormatError
from arriero.common.files import atomic_file

_BINS = 10
_BARS = 24
"""Of a histogram."""
_LENGTHS = 8
"""Groups of responses by length, of like size."""
_UNTOLD = "untold"

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Of so many pairs, or responses, how many are judged as they should be."""

    count: int
    right: int
    ties: int = 0
    share: float
    """Right ones of all."""
    low: float
    """Of the 95% interval (Wilson)."""
    high: float


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Pairs of which the model is about equally sure."""

    count: int
    sure: float
    """Mean of σ(|r_c − r_r|), the chance that the model gives its own choice."""
    right: float
    """Share of pairs in which that choice is right."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Scores of the chosen and of the rejected responses."""

    edges: list[float]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True, kw_only=True)
class LengthGroup:
    """Responses of about the same length."""

    count: int
    characters: float
    """Mean of the responses."""
    score: float
    """Mean."""
    error: float
    """Standard error of the mean score; 0 of one response."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A reward model's, on pairs; all but `kinds` and `sources` on those of its own kind."""

    model: str
    kind: Kind
    accuracy: Accuracy
    loss: float
    """Mean of −log σ(r_c − r_r), without margins; log 2 of a model that knows nothing."""
    longer: Accuracy
    """Of the rule that the longer response, in characters, is better; equal lengths tie."""
    shorter: Accuracy
    degrees: dict[str, Accuracy]
    """By how much better the response is; `untold` for pairs that do not say."""
    kinds: dict[str, Accuracy]
    sources: dict[str, Accuracy]
    bins: list[Bin]
    calibration_error: float
    """Mean distance between how sure the model is and how often it is right (ECE), pairs that tie left out."""
    histogram: Histogram
    length_correlation: float | None
    """Pearson's, between a response's score and its characters; None where either is constant."""
    length_groups: list[LengthGroup]
    """Shortest responses first."""
    safety: Accuracy | None
    """Of σ(r) ≥ 1/2 as the judgement that a response is safe; None where nothing tells."""


def evaluate_reward(reward: RewardModel, pairs: Sequence[TokenPair], kind: Kind) -> Evaluation:
    """Score pairs and measure.

    Raises:
        ArrieroError: no pair is of the kind, or as `RewardModel.score_ids`.
    """
    scores = reward.score_ids([row.tolist() for pair in pairs for row in (pair.chosen, pair.rejected)])
    return measure_pairs(reward.name, kind, pairs, np.array(scores).reshape(-1, 2))


def measure_pairs(model: str, kind: Kind, pairs: Sequence[TokenPair], scores: Floats) -> Evaluation:
    """Measure scores of pairs.

    Args:
        model: its name.
        kind: what the model judges.
        pairs: of any kind.
        scores: (P, 2) of the chosen and the rejected responses.

    Raises:
        ArrieroError: no pair is of the kind.
    """
    places = [i for i, pair in enumerate(pairs) if pair.kind == kind]
    if not places:
        raise ArrieroError(f"none of {len(pairs):,} pairs is of {kind}: there is nothing to measure")
    own, own_scores = [pairs[i] for i in places], scores[places]
    differences = own_scores[:, 0] - own_scores[:, 1]  # (P,)
    lengths = np.array([pair.lengths for pair in own], np.float64)  # (P, 2)
    longer = lengths[:, 0] - lengths[:, 1]
    bins = calibrate(differences)
    settled = sum(one.count for one in bins)
    return Evaluation(
        model=model,
        kind=kind,
        accuracy=accuracy(differences),
        loss=float(np.logaddexp(0.0, -differences).mean()),
        longer=accuracy(longer),
        shorter=accuracy(-longer),
        degrees=_by([pair.degree or _UNTOLD for pair in own], differences, (*get_args(Degree), _UNTOLD)),
        kinds=_by([pair.kind for pair in pairs], scores[:, 0] - scores[:, 1], get_args(Kind)),
        sources=_by([pair.source for pair in pairs], scores[:, 0] - scores[:, 1]),
        bins=bins,
        calibration_error=sum(one.count * abs(one.sure - one.right) for one in bins) / max(settled, 1),
        histogram=_histogram(own_scores),
        length_correlation=_correlation(own_scores.ravel(), lengths.ravel()),
        length_groups=_length_groups(own_scores.ravel(), lengths.ravel()),
        safety=_safety(own, own_scores),
    )


def accuracy(differences: Floats) -> Accuracy:
    """Of pairs whose scores differ by so much (P,): those above 0 are right, and those at 0 tie."""
    count, right, ties = len(differences), int((differences > 0).sum()), int((differences == 0).sum())
    low, high = wilson(right, count)
    return Accuracy(count=count, right=right, ties=ties, share=right / max(count, 1), low=low, high=high)


def calibrate(differences: Floats) -> list[Bin]:
    """Bins of equal width from 1/2 to 1 that are not empty, of pairs (P,) that do not tie."""
    settled = differences[differences != 0]
    sure = 1 / (1 + np.exp(-np.abs(settled)))
    places = np.minimum(((sure - 0.5) * 2 * _BINS).astype(int), _BINS - 1)
    return [
        Bin(count=int(own.sum()), sure=float(sure[own].mean()), right=float((settled[own] > 0).mean()))
        for own in (places == number for number in range(_BINS))
        if own.any()
    ]


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """As JSON."""
    with atomic_file(path) as aside:
        aside.write_text(json.dumps(dataclasses.asdict(evaluation), ensure_ascii=False, indent=1), encoding="utf-8")


def read_evaluation(path: Path) -> Evaluation:
    """What `write_evaluation` wrote.

    Raises:
        FormatError: it is damaged.
    """
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in ("accuracy", "longer", "shorter", "safety"):
            facts[name] = None if facts[name] is None else Accuracy(**facts[name])
        for name in ("degrees", "kinds", "sources"):
            facts[name] = {key: Accuracy(**value) for key, value in facts[name].items()}
        bins, histogram = [Bin(**one) for one in facts["bins"]], Histogram(**facts["histogram"])
        groups = [LengthGroup(**one) for one in facts["length_groups"]]
        return Evaluation(**{**facts, "bins": bins, "histogram": histogram, "length_groups": groups})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: no evaluation of a reward model: {' '.join(str(error).split())}") from error


def _by(names: Sequence[str], differences: Floats, order: Sequence[str] = ()) -> dict[str, Accuracy]:
    """Accuracy of the pairs of each name, in the order given, or by name."""
    labels, found = np.array(names), set(names)
    return {name: accuracy(differences[labels == name]) for name in order or sorted(found) if name in found}


def _histogram(scores: Floats) -> Histogram:
    edges = np.histogram_bin_edges(scores, bins=_BARS)
    chosen, rejected = (np.histogram(scores[:, side], bins=edges)[0] for side in (0, 1))
    return Histogram(edges=edges.tolist(), chosen=chosen.tolist(), rejected=rejected.tolist())


def _correlation(one: Floats, other: Floats) -> float | None:
    if one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _length_groups(scores: Floats, lengths: Floats) -> list[LengthGroup]:
    """Of responses (D,): eighths by length, as far as there are so many responses."""
    parts = np.array_split(np.argsort(lengths, kind="stable"), min(_LENGTHS, len(lengths)))
    return [
        LengthGroup(
            count=len(part),
            characters=float(lengths[part].mean()),
            score=float(scores[part].mean()),
            error=float(scores[part].std(ddof=1) / len(part) ** 0.5) if len(part) > 1 else 0.0,
        )
        for part in parts
    ]


def _safety(pairs: Sequence[TokenPair], scores: Floats) -> Accuracy | None:
    """Of responses that are labelled."""
    labels = np.array([pair.safe for pair in pairs])  # (P, 2)
    known = labels != UNKNOWN
    if not known.any():
        return None
    right, count = int(((scores[known] >= 0) == (labels[known] == 1)).sum()), int(known.sum())
    low, high = wilson(right, count)
    return Accuracy(count=count, right=right, share=right / count, low=low, high=high)
