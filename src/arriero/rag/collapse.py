"""Whether retrieval still tells questions apart, or has collapsed onto a few documents that answer none of them.

End-to-end training may teach the query encoder to ask for the same documents whatever the question, after which the
generator learns to ignore them (Lewis et al., arXiv 2005.11401, appendix D, saw it on some tasks). A fixed set of
questions is asked before and during the training. What raises the alarm is that questions come to share documents; a
p(z|x) that grows sharp, and documents other than before, are what success looks like too, and are only written down.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_LEAST_DISTINCT = 0.5
"""Of the distinct documents before the training: fewer raise an alarm."""


@dataclass(frozen=True)
class RetrievalState:
    """What a set of questions finds."""

    distinct: float
    """Distinct documents by all retrieved ones: 1 where each question finds its own, 1/questions where all find the
    same."""
    entropy: float
    """Mean entropy of p(z|x), in nats: 0 where one document has all the weight, log k where all have the same."""
    kept: float
    """Mean share of each question's documents that it found before the training too."""

    def to_dict(self) -> dict[str, float]:
        """For the diary."""
        return {f"retrieval_{name}": value for name, value in asdict(self).items()}


def retrieval_state(
    found: Sequence[Sequence[int]], priors: Sequence[Sequence[float]], before: Sequence[Sequence[int]]
) -> RetrievalState:
    """Measure what was found.

    Args:
        found: ids of each question's documents.
        priors: p(z|x) of them.
        before: ids of each question's documents before the training.
    """
    every = [number for ids in found for number in ids]
    entropies = [-sum(p * math.log(p) for p in prior if p > 0) for prior in priors]
    kept = [len({*ids} & {*own}) / max(1, len(ids)) for ids, own in zip(found, before, strict=True)]
    return RetrievalState(
        len(set(every)) / max(1, len(every)), sum(entropies) / max(1, len(found)), sum(kept) / max(1, len(found))
    )


def collapse_alarm(now: RetrievalState, before: RetrievalState) -> str | None:
    """What to say where retrieval has collapsed; None where it has not."""
    if now.distinct >= _LEAST_DISTINCT * before.distinct:
        return None
    return (
        f"retrieval collapses: questions find {now.distinct:.2f} distinct documents per one retrieved, "
        f"{before.distinct:.2f} before the training; lower --retriever-lr, or keep it with --freeze-retriever"
    )
