"""Retrieval: dense, BM25, and both fused by reciprocal rank (Cormack et al. 2009: Σ 1 / (60 + rank)).

The index proposes ids and nothing more; every hit's dense score is the inner product of the query with the stored fp32
vector, also for a passage that BM25 alone found, for p(z|x) is a softmax over these (Lewis et al. 2020, section 2.2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from arriero.common.errors import ArrieroError, did_you_mean
from arriero.rag.answer_config import Mode
from arriero.rag.contracts import VectorIndex, Vectors
from arriero.rag.passage import Passage
from arriero.rag.store import Store

MODES: tuple[Mode, ...] = get_args(Mode)
RRF_CONSTANT = 60
# How deep each list is read before they are fused: a passage below this in both lists cannot reach the first few.
FUSION_DEPTH = 100


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A passage that was found."""

    passage: Passage
    passage_id: int
    score: float
    """What the hits are ordered by: inner product, BM25, or fused reciprocal ranks."""
    dense: float
    """Inner product of query and passage, whichever way the passage was found."""
    bm25: float | None
    """BM25 score, where BM25 found it."""
    metadata: dict[str, str]
    """Its document's metadata."""


def find(
    store: Store,
    index: VectorIndex | None,
    question: str,
    query: Vectors,
    *,
    k: int,
    mode: Mode = "hybrid",
    filters: Mapping[str, str] | None = None,
) -> list[Hit]:
    """The k best passages for a question and its vector (dim,), among those whose metadata the filters allow.

    Fewer come back where fewer exist; equal scores are ordered by id. BM25 alone needs no index.

    Raises:
        ArrieroError: k below 1, or an unknown mode or filter.
    """
    check_request(k, mode)
    k = min(k, store.passage_count())
    allowed = None
    if filters:
        store.check_filters(filters)
        allowed = store.passage_ids(filters)
    depth = max(k, FUSION_DEPTH) if mode == "hybrid" else k
    dense = [] if index is None or mode == "bm25" else index.search(query, depth, allowed)
    bm25 = {} if mode == "dense" else dict(store.bm25(question, depth, filters))
    rows = store.passages([*dict.fromkeys([*dense, *bm25])])
    products = {number: float(query.astype(np.float64) @ row[1].astype(np.float64)) for number, row in rows.items()}
    if mode == "dense":
        scores = products
    elif mode == "bm25":
        scores = {number: score for number, score in bm25.items() if number in rows}
    else:
        by_product = sorted(
            (number for number in dense if number in rows), key=lambda number: (-products[number], number)
        )
        scores = fuse([by_product, [number for number in bm25 if number in rows]])
    best = sorted(scores, key=lambda number: (-scores[number], number))[:k]
    return [
        Hit(
            passage=rows[number][0],
            passage_id=number,
            score=scores[number],
            dense=products[number],
            bm25=bm25.get(number),
            metadata=rows[number][2],
        )
        for number in best
    ]


def fuse(rankings: Sequence[Sequence[int]]) -> dict[int, float]:
    """Reciprocal rank fusion: id → Σ over the rankings it is in of 1 / (60 + rank), ranks from 1."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, start=1):
            scores[number] = scores.get(number, 0.0) + 1.0 / (RRF_CONSTANT + rank)
    return scores


def check_request(k: int, mode: str) -> None:
    """Refuse what no search can answer.

    Raises:
        ArrieroError: k below 1 or an unknown mode.
    """
    if k < 1:
        raise ArrieroError(f"k must be at least 1, not {k}")
    if mode not in MODES:
        raise ArrieroError(
            f"unknown search mode '{mode}'{did_you_mean(mode, MODES)}: expected one of {', '.join(MODES)}"
        )
