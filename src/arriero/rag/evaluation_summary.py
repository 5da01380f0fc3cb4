"""What an evaluation's records come to: means over questions with 95% intervals, and differences between systems."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from arriero.rag.evaluation import DEPTH
from arriero.rag.evaluation_records import Record, System
from arriero.rag.qa_metrics import (
    Estimate,
    Refusals,
    count_refusals,
    difference,
    estimate,
    holds_answer,
    recall_at,
    reciprocal_ranks,
)

_DEPTHS = (1, 2, 3, 5, 10, DEPTH)


@dataclass(frozen=True, kw_only=True)
class SystemSummary:
    """How one system did."""

    name: System
    em: Estimate
    f1: Estimate
    said: Estimate
    """A right answer stands in what it said, word for word; what else it said is not counted against it."""
    faithfulness: Estimate | None
    em_gain: Estimate | None
    """Over the system before it, question by question."""
    f1_gain: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What an evaluation came to."""

    questions: int
    answerable: int
    recall: dict[int, Estimate]
    """By k: a passage that answers is among the first k."""
    mrr: Estimate
    """Mean reciprocal rank, among as many."""
    in_context: Estimate
    """A right answer stands in one of the documents that were read."""
    systems: tuple[SystemSummary, ...]
    refusals: Refusals
    threshold: float
    """Below which a question is refused."""


def summarise(records: Sequence[Record], systems: Sequence[System], *, k: int, threshold: float) -> Summary:
    """Means, intervals and differences.

    Args:
        records: of all questions.
        systems: in the order in which they are compared.
        k: documents that were read.
        threshold: below which a question is refused.
    """
    answerable = [record for record in records if record.answers]
    ranks = [record.rank for record in answerable]
    answered = [record for record in answerable if record.given]
    gains = dict(zip(systems[1:], pairwise(systems), strict=True))
    return Summary(
        questions=len(records),
        answerable=len(answerable),
        recall={depth: estimate(recall_at(ranks, depth)) for depth in sorted({*_DEPTHS, k})},
        mrr=estimate(reciprocal_ranks(ranks)),
        in_context=estimate([float(any(read.answers for read in record.documents)) for record in answerable]),
        systems=tuple(_summarise(answered, name, gains.get(name, (None, name))[0]) for name in systems),
        refusals=count_refusals(
            [record.dense < threshold for record in records], [bool(record.answers) for record in records]
        ),
        threshold=threshold,
    )


def does_say(record: Record, system: System) -> bool:
    """Whether a right answer stands in what a system said."""
    return holds_answer(record.given[system].text, record.answers)


def _summarise(records: Sequence[Record], name: System, before: System | None) -> SystemSummary:
    own = [record.given[name] for record in records]
    weights = [given.faithfulness for given in own if given.faithfulness is not None]
    earlier = None if before is None else [record.given[before] for record in records]
    return SystemSummary(
        name=name,
        em=estimate([given.em for given in own]),
        f1=estimate([given.f1 for given in own]),
        said=estimate([float(does_say(record, name)) for record in records]),
        faithfulness=estimate(weights) if weights else None,
        em_gain=None if earlier is None else difference([x.em for x in own], [x.em for x in earlier]),
        f1_gain=None if earlier is None else difference([x.f1 for x in own], [x.f1 for x in earlier]),
    )
