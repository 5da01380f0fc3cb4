"""Questions answered from a collection: retrieve, refuse or prompt, generate, ground.

The retriever is dense (Lewis et al. 2020, section 2.2) or its fusion with BM25; the model is a chat model that reads
the passages side by side. Whether it may answer at all is decided before it runs, by the best passage's inner product
with the question; what it then says is held against the passages sentence by sentence (`citations.py`).
"""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.generate.request import Request
from arriero.rag.answer_config import AnswerConfig
from arriero.rag.answer_text import answer_html, answer_text
from arriero.rag.citations import Citation, Grounded, Grounder
from arriero.rag.collection import Collection
from arriero.rag.contracts import ChatModel
from arriero.rag.excerpt import pick_sentences
from arriero.rag.prompt import Prompt, Turn, build_prompt
from arriero.rag.search import Hit

REFUSAL = "The documents do not answer this question."

PASSAGES = 4
"""Retrieved for a question where nothing else is asked for."""


NEAR_SHARE = 0.9
"""Of the inner product that the question before reached: what a follow-up together with it reaches at least. So it was
for 22 of 23 follow-ups to Python's reference and to a household's notes, and for 2 of 22 questions about other things,
13 of which would else have been answered from the passages of the question before (all-MiniLM-L6-v2)."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, and what it stands on."""

    question: str
    text: str
    """With markers [1], [2], … after the sentences that a passage supports."""
    citations: tuple[Citation, ...]
    passages: tuple[Hit, ...]
    """What the model was shown (or, after a refusal, the best that was found)."""
    refused: bool
    grounded: Grounded
    """Whether all, some or no sentences are supported; 'none' after a refusal."""
    finish_reason: str
    """stop, length, cancelled, refused, or repetition: what the model said twice is shown once, and ends it."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __str__(self) -> str:
        return answer_text(self)

    def _repr_html_(self) -> str:
        return answer_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Its JSON form."""
        passages = [
            {
                "document": hit.passage.document,
                "page": hit.passage.page,
                "page_end": hit.passage.page_end,
                "section": hit.passage.section,
                "start": hit.passage.start,
                "end": hit.passage.end,
                "passage_id": hit.passage_id,
                "score": hit.score,
                "dense": hit.dense,
                "text": hit.passage.text,
            }
            for hit in self.passages
        ]
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return plain | {"citations": [citation.to_dict() for citation in self.citations], "passages": passages}


def ask(
    collection: Collection,
    engine: ChatModel,
    question: str,
    config: AnswerConfig | None = None,
    *,
    history: Sequence[Turn] = (),
    filters: dict[str, str] | None = None,
) -> Answer:
    """Answer one question.

    Args:
        collection: the documents.
        engine: the model that answers.
        question: as typed; it reaches retriever and model unchanged.
        config: how.
        history: earlier turns of the talk, oldest first.
        filters: metadata that documents must have.

    Raises:
        ArrieroError: an empty question, one too long for the model, or a collection of another encoder.
    """
    *_, answer = stream_answer(collection, engine, question, config, history=history, filters=filters)
    assert isinstance(answer, Answer)
    return answer


def stream_answer(
    collection: Collection,
    engine: ChatModel,
    question: str,
    config: AnswerConfig | None = None,
    *,
    history: Sequence[Turn] = (),
    filters: dict[str, str] | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[str | Answer]:
    """`ask` in pieces of text, and the `Answer` last; the pieces joined are its text.

    A sentence is given when it is complete, with its marker.

    Raises:
        ArrieroError: the question is empty.
    """
    config = config or AnswerConfig()
    if not question.strip():
        raise ArrieroError("the question is empty: expected at least one word")
    found = retrieve(collection, question, config, history=history, filters=filters)
    if not found.hits or max(hit.dense for hit in found.hits) < config.threshold:
        yield REFUSAL
        yield _refusal(question, found.hits)
        return
    count = config.sentences
    prompt = build_prompt(
        engine.tokenizer,
        question,
        found.hits,
        spans=pick_sentences(found.query, found.hits, collection.encoder, count) if count else None,
        history=history[-1:] if found.is_follow_up else (),
        instruction=config.instruction,
        context=engine.context,
        reserve=min(config.sampling.max_tokens, engine.context // 2),
    )
    yield from _generate(collection, engine, question, prompt, config, cancel)


@dataclass(frozen=True)
class Retrieval:
    """What was found, and what was asked for it."""

    hits: list[Hit]
    query: str
    is_follow_up: bool
    """The question was understood with the one before it."""


def retrieve(
    collection: Collection,
    question: str,
    config: AnswerConfig,
    *,
    history: Sequence[Turn] = (),
    filters: dict[str, str] | None = None,
) -> Retrieval:
    """The passages for a question.

    In a talk a follow-up ('And when?') means little alone, so it is asked for together with the question before it too,
    and of the two lists the one with the nearer best passage is taken; the latter only if its words don't lead away
    from what the question before found (`NEAR_SHARE`): another subject is no follow-up.

    Raises:
        NotFoundError: no document matches the filters.
    """

    def search(query: str) -> list[Hit]:
        return collection.search(query, k=config.k or PASSAGES, mode=config.retrieval, filters=filters)

    alone = search(question)
    if filters and not alone and config.retrieval != "bm25":  # no passage at all is left to compare with
        wanted = ", ".join(f"{key}={value}" for key, value in filters.items())
        raise NotFoundError(f"no document matches {wanted}: `arriero rag list` shows names and notes")
    for turn in history[-1:]:
        query = f"{turn.question} {question}"
        together = search(query)
        if _nearest(together) > max(_nearest(alone), NEAR_SHARE * _nearest(search(turn.question))):
            return Retrieval(together, query, True)
    return Retrieval(alone, question, False)


def _nearest(hits: Sequence[Hit]) -> float:
    """The greatest inner product with the question."""
    return max((hit.dense for hit in hits), default=-1.0)


def _refusal(question: str, hits: Sequence[Hit]) -> Answer:
    return Answer(
        question=question,
        text=REFUSAL,
        citations=(),
        passages=tuple(hits),
        refused=True,
        grounded="none",
        finish_reason="refused",
    )


def _generate(
    collection: Collection,
    engine: ChatModel,
    question: str,
    prompt: Prompt,
    config: AnswerConfig,
    cancel: threading.Event | None,
) -> Iterator[str | Answer]:
    grounder = Grounder(prompt.sources, question, collection.encoder)
    room = engine.context - len(prompt.ids)
    sampling = dataclasses.replace(config.sampling, max_tokens=min(config.sampling.max_tokens, room))
    said: list[str] = []
    tokens, reason = 0, "repetition"
    with closing(engine.stream(Request(prompt_ids=prompt.ids, sampling=sampling, cancel=cancel))) as deltas:
        for delta in deltas:
            tokens += len(delta.ids)
            reason = delta.completion.finish_reason if delta.completion else reason
            if piece := grounder.push(delta.text):
                said.append(piece)
                yield piece
            if grounder.repeating:
                break
    if piece := grounder.flush():
        said.append(piece)
        yield piece
    yield Answer(
        question=question,
        text="".join(said),
        citations=tuple(grounder.citations),
        passages=tuple(source.hit for source in prompt.sources),
        refused=False,
        grounded=grounder.grounded,
        finish_reason="repetition" if grounder.repeating else reason,
        prompt_tokens=len(prompt.ids),
        completion_tokens=tokens,
    )
