"""A question answered by one of the paper's models, with citations weighted by the posterior over documents.

Where `answer.py` holds each sentence of an answer against the passages, here the model itself says what its answer
rests on: p(z|x, y) ∝ p(z|x) p(y|x, z) (Lewis et al., arXiv 2005.11401, section 2.1).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.rag.answer import REFUSAL, REFUSAL_SCORE
from arriero.rag.collection import Collection
from arriero.rag.decode import DecodingConfig, RagAnswer, decode
from arriero.rag.evidence import sentence_spans
from arriero.rag.generator import Generator
from arriero.rag.qa_metrics import answer_tokens, holds_answer
from arriero.rag.retrieve import as_document, hits_for, usual_scale
from arriero.rag.search import Hit, Mode


@dataclass(frozen=True, kw_only=True)
class WeightedCitation:
    """A passage that was read, and how much of the answer rests on it."""

    place: str
    """'report.pdf, page 3, Results': where a reader finds it."""
    passage_id: int
    prior: float
    """p(z|x): before there was an answer."""
    posterior: float
    """p(z|x, y)."""
    holds_answer: bool
    """Whether it has the answer word for word."""
    quote: str
    """Its sentence that has the answer, or most words of it."""


@dataclass(frozen=True, kw_only=True)
class MarginalAnswer:
    """An answer, and what it rests on."""

    question: str
    text: str
    refused: bool
    citations: tuple[WeightedCitation, ...]
    """Every passage that was read, by its posterior."""
    passages: tuple[Hit, ...]
    """As they were found."""
    rag: RagAnswer | None
    """The model's answers, with posteriors for each token; None after a refusal."""

    @property
    def faithfulness(self) -> float:
        """Σ_z p(z|x, y) · [z holds the answer]: how much of its weight lies on passages that say it."""
        return sum(citation.posterior for citation in self.citations if citation.holds_answer)

    def to_dict(self) -> dict[str, Any]:
        """Its JSON form."""
        rag = {} if self.rag is None else dataclasses.asdict(self.rag)
        return {
            "question": self.question,
            "text": self.text,
            "refused": self.refused,
            "faithfulness": self.faithfulness,
            "citations": [dataclasses.asdict(citation) for citation in self.citations],
            **{key: rag.get(key, []) for key in ("documents", "prior", "hypotheses")},
        }


def ask_marginal(
    collection: Collection,
    generator: Generator,
    question: str,
    decoding: DecodingConfig,
    *,
    k: int,
    retrieval: Mode = "hybrid",
    scale: float | None = None,
    threshold: float = REFUSAL_SCORE,
    filters: Mapping[str, str] | None = None,
) -> MarginalAnswer:
    """Answer one question.

    Args:
        collection: the documents.
        generator: p(y_i | x, z, y_<i).
        question: as typed; it reaches retriever and generator unchanged.
        decoding: by which of the two models, and how.
        k: documents to read.
        retrieval: how they are found; p(z|x) is of their inner products in any case.
        scale: length of the query vector for p(z|x); by default what suits the encoder.
        threshold: refuse when no passage's inner product with the question reaches this; -1 never refuses.
        filters: metadata that documents must have.

    Raises:
        ArrieroError: an empty question, one too long for the generator, or a collection of another encoder.
    """
    if not question.strip():
        raise ArrieroError("the question is empty: expected at least one word")
    hits = hits_for(collection, [question], k, mode=retrieval, filters=filters)[0]
    if filters and not hits and retrieval != "bm25":
        wanted = ", ".join(f"{key}={value}" for key, value in filters.items())
        raise NotFoundError(f"no document matches {wanted}: `arriero rag list` shows names and notes")
    if not hits or max(hit.dense for hit in hits) < threshold:
        return MarginalAnswer(
            question=question, text=REFUSAL, refused=True, citations=(), passages=tuple(hits), rag=None
        )
    factor = usual_scale(collection) if scale is None else scale
    answer = decode(generator, [question], [[as_document(hit, factor) for hit in hits]], decoding)[0]
    return MarginalAnswer(
        question=question,
        text=answer.best.text,
        refused=False,
        citations=_cite(answer, hits),
        passages=tuple(hits),
        rag=answer,
    )


def _cite(answer: RagAnswer, hits: Sequence[Hit]) -> tuple[WeightedCitation, ...]:
    best = answer.best
    found = [
        WeightedCitation(
            place=hit.passage.place,
            passage_id=hit.passage_id,
            prior=prior,
            posterior=posterior,
            holds_answer=holds_answer(hit.passage.text, [best.text]),
            quote=_quote(hit.passage.text, best.text),
        )
        for hit, prior, posterior in zip(hits, answer.prior, best.posterior, strict=True)
    ]
    return tuple(sorted(found, key=lambda citation: -citation.posterior))


def _quote(passage: str, answer: str) -> str:
    """The sentence that holds the answer, else the first with most of its words."""
    sentences = [passage[start:end] for start, end in sentence_spans(passage)] or [passage]
    words = set(answer_tokens(answer))
    best = max(sentences, key=lambda text: (holds_answer(text, [answer]), len(words & set(answer_tokens(text)))))
    return " ".join(best.split())
