"""A question answered by one of the paper's models, with citations weighted by the posterior over documents.

Where `answer.py` holds each sentence of an answer against the passages, here the model itself says what its answer
rests on: p(z|x, y) ∝ p(z|x) p(y|x, z) (Lewis et al., arXiv 2005.11401, section 2.1).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.rag.answer import REFUSAL
from arriero.rag.answer_config import REFUSAL_SCORE, Mode
from arriero.rag.collection import Collection
from arriero.rag.decode import RagAnswer, decode
from arriero.rag.decoding_config import DecodingConfig, RagKind
from arriero.rag.evidence import Span, content_words, sentence_spans
from arriero.rag.generator import Generator
from arriero.rag.qa_metrics import holds_answer
from arriero.rag.retrieve import as_document, hits_for, usual_scale
from arriero.rag.search import Hit


@dataclass(frozen=True, kw_only=True)
class WeightedCitation:
    """A passage that was read, and how much of the answer rests on it."""

    place: str
    """'report.pdf, page 3, Results': where a reader finds it."""
    passage_id: int
    rank: int
    """Its place among the passages as they were found, from 1."""
    prior: float
    """p(z|x): before there was an answer."""
    posterior: float
    """p(z|x, y)."""
    holds_answer: bool
    """Whether it has the answer word for word."""
    quote: str
    """Its sentence that has the answer, or else is nearest to it by words."""
    span: Span
    """Where the quote is in the passage's text."""


@dataclass(frozen=True, kw_only=True)
class MarginalAnswer:
    """An answer, and what it rests on."""

    question: str
    kind: RagKind
    text: str
    finish_reason: Literal["stop", "length", "refused"]
    """length: it was cut off at the most tokens."""
    citations: tuple[WeightedCitation, ...]
    """Every passage that was read, by its posterior."""
    passages: tuple[Hit, ...]
    """As they were found."""
    rag: RagAnswer | None
    """The model's answers, with posteriors for each token; None after a refusal."""
    tokens: tuple[tuple[str, ...], ...]
    """The text of each token of each of these answers."""

    @property
    def refused(self) -> bool:
        """Whether the documents hold nothing near the question."""
        return self.rag is None

    @property
    def faithfulness(self) -> float:
        """Σ_z p(z|x, y) · [z holds the answer]: how much of its weight lies on passages that say it."""
        return sum(citation.posterior for citation in self.citations if citation.holds_answer)

    def to_dict(self) -> dict[str, Any]:
        """Its JSON form."""
        rag = {} if self.rag is None else dataclasses.asdict(self.rag)
        hypotheses = [
            hypothesis | {"tokens": tokens}
            for hypothesis, tokens in zip(rag.get("hypotheses", []), self.tokens, strict=True)
        ]
        return {
            "question": self.question,
            "mode": self.kind,
            "text": self.text,
            "refused": self.refused,
            "finish_reason": self.finish_reason,
            "faithfulness": self.faithfulness,
            "citations": [dataclasses.asdict(citation) for citation in self.citations],
            "documents": rag.get("documents", []),
            "prior": rag.get("prior", []),
            "hypotheses": hypotheses,
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
        return _refuse(question, decoding.kind, hits)
    factor = usual_scale(collection) if scale is None else scale
    answer = decode(generator, [question], [[as_document(hit, factor) for hit in hits]], decoding)[0]
    ended = not generator.stop_ids.isdisjoint(answer.best.ids[-1:])
    return MarginalAnswer(
        question=question,
        kind=decoding.kind,
        text=answer.best.text if ended else answer.best.text.rstrip("\ufffd"),  # cut off within a character
        finish_reason="stop" if ended else "length",
        citations=_cite(answer, hits),
        passages=tuple(hits),
        rag=answer,
        tokens=tuple(token_texts(generator, each.ids) for each in answer.hypotheses),
    )


def _refuse(question: str, kind: RagKind, hits: Sequence[Hit]) -> MarginalAnswer:
    return MarginalAnswer(
        question=question,
        kind=kind,
        text=REFUSAL,
        finish_reason="refused",
        citations=(),
        passages=tuple(hits),
        rag=None,
        tokens=(),
    )


def _cite(answer: RagAnswer, hits: Sequence[Hit]) -> tuple[WeightedCitation, ...]:
    best = answer.best
    found = []
    for rank, (hit, prior, posterior) in enumerate(zip(hits, answer.prior, best.posterior, strict=True), 1):
        text = hit.passage.text
        start, end = nearest_sentence(text, best.text, answer.question)
        found.append(
            WeightedCitation(
                place=hit.passage.place,
                passage_id=hit.passage_id,
                rank=rank,
                prior=prior,
                posterior=posterior,
                holds_answer=holds_answer(text, [best.text]),
                quote=" ".join(text[start:end].split()),
                span=(start, end),
            )
        )
    return tuple(sorted(found, key=lambda citation: -citation.posterior))


def token_texts(generator: Generator, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token; a character that several tokens make stands at the last of them, and U+FFFD at those
    before it."""
    pieces = generator.pieces(ids)
    start = None  # of the tokens that may make the next character: four at most, in UTF-8
    for i, piece in enumerate(pieces):
        if "\ufffd" not in piece:
            start = None
            continue
        start = i if start is None or i - start == 4 else start
        whole = generator.text(ids[start : i + 1])
        if whole and "\ufffd" not in whole:
            pieces[i], start = whole, None
    return tuple(pieces)


def nearest_sentence(passage: str, answer: str, question: str) -> Span:
    """Where a passage says the answer: the sentence that holds it, else the first that shares most words that carry
    meaning with it, and of several such the one that shares most with the question."""
    wanted, asked = content_words(answer), content_words(question)

    def nearness(span: Span) -> tuple[bool, int, int]:
        sentence = passage[span[0] : span[1]]
        words = content_words(sentence)
        return holds_answer(sentence, [answer]), len(wanted & words), len(asked & words)

    return max(sentence_spans(passage) or [(0, len(passage))], key=nearness)
