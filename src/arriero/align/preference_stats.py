"""What a collection of preferences is like, as Llama 2's Table 6 counts it, and how far its annotators agree."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

from arriero.align.preferences import Comparison, Degree, Safety, Vote


@dataclass(frozen=True, kw_only=True)
class SourceStats:
    """One source's comparisons: a row of Llama 2's Table 6."""

    source: str
    comparisons: int
    turns: float
    """Mean messages of a dialogue, the response included."""
    example_tokens: float
    """Mean tokens of prompt and response together."""
    prompt_tokens: float
    response_tokens: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far annotators agree on which response is better, over pairs that several judged."""

    pairs: int
    """Judged by two annotators or more."""
    share: float | None
    """Of pairs of judgements that agree; None where no pair was judged twice."""
    kappa: float | None
    """Cohen's κ with pooled margins (Scott's π): agreement beyond chance; None where chance explains all."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How often one variant was preferred to another; a negligible difference is a tie."""

    model_a: str
    model_b: str
    wins_a: int
    wins_b: int
    ties: int


@dataclass(frozen=True, kw_only=True)
class PreferenceStats:
    """A whole collection."""

    sources: list[SourceStats]
    total: SourceStats
    degrees: dict[str, int]
    """Judgements by degree; `untold` for those without."""
    safety: dict[str, int]
    """Judgements by bin, likewise."""
    flagged: int
    """Judgements that prefer the unsafe response to a safe one, left out of training."""
    first_chosen: float
    """Share of judgements for the first response: 0.5 where its place says nothing."""
    longer_chosen: float
    """Share of judgements for the longer response."""
    repeated: int
    """Pairs that compare the same two texts, after the same prompt, as one before: of other variants, say."""
    contradicted: int
    """Of the pairs of texts that were judged more than once, those where not all judgements agree."""
    agreement: Agreement


def measure_preferences(comparisons: Iterable[Comparison], count_tokens: Callable[[str], int]) -> PreferenceStats:
    """Count a collection.

    Args:
        comparisons: the flagged ones too.
        count_tokens: tokens of a text.
    """
    judged = list(comparisons)
    by_source: dict[str, list[Comparison]] = {}
    for comparison in judged:
        by_source.setdefault(comparison.pair.source, []).append(comparison)
    decided = [c for c in judged if len(c.chosen.text) != len(c.rejected.text)]
    same: dict[tuple[str, frozenset[str]], list[str]] = {}
    for c in judged:
        texts = frozenset((c.chosen.text, c.rejected.text))
        same.setdefault((repr(c.pair.prompt), texts), []).append(c.chosen.text)
    longer = sum(len(c.chosen.text) > len(c.rejected.text) for c in decided)
    return PreferenceStats(
        sources=[_measure(source, own, count_tokens) for source, own in sorted(by_source.items())],
        total=_measure("all", judged, count_tokens),
        degrees=_spread([c.judgement.degree for c in judged], get_args(Degree)),
        safety=_spread([c.judgement.safety for c in judged], get_args(Safety)),
        flagged=sum(c.judgement.flagged for c in judged),
        first_chosen=_share(sum(c.judgement.choice == 1 for c in judged), len(judged)),
        longer_chosen=_share(longer, len(decided)),
        repeated=len({c.pair.id for c in judged}) - len(same),
        contradicted=sum(len(set(chosen)) > 1 for chosen in same.values()),
        agreement=measure_agreement((c.pair.id, c.judgement.choice) for c in judged),
    )


def measure_agreement(choices_made: Iterable[tuple[int, int]]) -> Agreement:
    """Agreement over all pairs of judgements of one pair of responses.

    Args:
        choices_made: of each judgement, the pair's id and the choice.
    """
    choices: dict[int, list[int]] = {}
    for pair, choice in choices_made:
        choices.setdefault(pair, []).append(choice)
    several = [own for own in choices.values() if len(own) > 1]
    both = [pair for own in several for pair in combinations(own, 2)]
    if not both:
        return Agreement(pairs=0, share=None, kappa=None)
    share = sum(one == other for one, other in both) / len(both)
    firsts = sum(choice == 1 for pair in both for choice in pair) / (2 * len(both))
    chance = firsts**2 + (1 - firsts) ** 2
    return Agreement(pairs=len(several), share=share, kappa=None if chance == 1 else (share - chance) / (1 - chance))


def tally(votes: Iterable[Vote]) -> list[Tally]:
    """Wins and ties of all variants that were compared with another one, by their names."""
    counts: dict[tuple[str, str], list[int]] = {}
    for vote in votes:
        if vote.first == vote.second:
            continue
        row = counts.setdefault((min(vote.first, vote.second), max(vote.first, vote.second)), [0, 0, 0])
        winner = vote.first if vote.choice == 1 else vote.second
        row[2 if vote.degree == "negligibly better" else winner != min(vote.first, vote.second)] += 1
    return [
        Tally(model_a=a, model_b=b, wins_a=wins_a, wins_b=wins_b, ties=ties)
        for (a, b), (wins_a, wins_b, ties) in sorted(counts.items())
    ]


def _measure(source: str, comparisons: Sequence[Comparison], count_tokens: Callable[[str], int]) -> SourceStats:
    prompts = [sum(count_tokens(message["content"]) for message in c.pair.prompt) for c in comparisons]
    responses = [count_tokens(text) for c in comparisons for text in (c.pair.first.text, c.pair.second.text)]
    count = len(comparisons)
    prompt, response = _share(sum(prompts), count), _share(sum(responses), 2 * count)
    return SourceStats(
        source=source,
        comparisons=count,
        turns=_share(sum(len(c.pair.prompt) + 1 for c in comparisons), count),
        example_tokens=prompt + response,
        prompt_tokens=prompt,
        response_tokens=response,
    )


def _spread(values: Sequence[str | None], known: Sequence[str]) -> dict[str, int]:
    counts = Counter("untold" if value is None else value for value in values)
    return {name: counts[name] for name in (*known, "untold") if counts[name] or name != "untold"}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
