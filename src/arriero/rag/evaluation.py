"""RAG measured on questions with known answers, beside what it has to beat, on the same questions in one run.

closed-book          the generator alone: what it knows by itself
retrieve-then-read   the first document alone
concatenated         all documents in one prompt, as most tools do
rag-sequence         RAG's models (Lewis et al., arXiv 2005.11401, section 2.1)
rag-token

Every system answers every question that has an answer; where no document is found, whoever needs one says nothing.
Whether a question would be refused is measured apart. What each question came to is written down as it is there, so
that an evaluation that was stopped goes on.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from arriero.common.errors import ArrieroError
from arriero.common.journal import Row, fill
from arriero.rag.answer_config import Mode
from arriero.rag.collection import Collection
from arriero.rag.decode import RagAnswer, decode, decode_closed_book
from arriero.rag.evaluation_config import EvaluationConfig
from arriero.rag.evaluation_records import SILENT, Given, Read, Record, System, as_record, read_records
from arriero.rag.generator import Generator, RagDocument
from arriero.rag.marginal import document_prior
from arriero.rag.qa_metrics import answer_tokens, exact_match, f1, holds_answer
from arriero.rag.questions import Question
from arriero.rag.retrieve import as_document, hits_for
from arriero.rag.search import Hit

DEPTH = 20
"""Passages among which the one that answers is looked for."""
_SHARED_WORDS = 8
"""In a row, that a passage and a paragraph have in common by more than chance."""
_PORTION = 8
"""Questions that are answered together, and written down together."""


def evaluate(
    collection: Collection,
    generator: Generator,
    questions: Sequence[Question],
    config: EvaluationConfig,
    *,
    k: int,
    scale: float,
    records: Path,
) -> list[Record]:
    """Answer all questions, and write down what each came to.

    Args:
        collection: the documents; its encoder asks.
        generator: of all systems.
        k: documents of a question.
        scale: length of the query vectors, for p(z|x).
        records: the file to write to; what is in it already is not answered again.

    Raises:
        ArrieroError: the file holds other questions, or is damaged.
    """
    asked = choose_questions(questions, config)
    done = read_records(records)
    if [record.question for record in done] != [question.question for question in asked[: len(done)]]:
        raise ArrieroError(f"{records} holds other questions: choose another folder")

    def answer(places: range) -> list[Row]:
        return [asdict(each) for each in _answer(collection, generator, [asked[i] for i in places], config, k, scale)]

    rows = fill(records, len(asked), _PORTION, answer, doing="Answering", unit="questions")
    return [as_record(row) for row in rows]


def choose_questions(questions: Sequence[Question], config: EvaluationConfig) -> list[Question]:
    """The questions to measure on, in their order; those of a smaller limit come first in that of a larger one."""
    chosen = list(questions)
    if config.seed is not None:
        random.Random(config.seed).shuffle(chosen)  # noqa: S311 - no secret
    return chosen[: config.limit]


def _answer(
    collection: Collection,
    generator: Generator,
    questions: Sequence[Question],
    config: EvaluationConfig,
    k: int,
    scale: float,
) -> list[Record]:
    mode: Mode = config.retrieval
    found = hits_for(collection, [question.question for question in questions], max(k, DEPTH), mode=mode)
    documents = [[as_document(hit, scale) for hit in hits[:k]] for hits in found]
    given: list[dict[System, Given]] = [{} for _ in questions]
    for system in config.systems:
        for i, question in enumerate(questions):
            if question.answers:
                given[i][system] = SILENT
        able = [i for i in range(len(questions)) if given[i] and (documents[i] or system == "closed-book")]
        answers = _run(system, generator, [questions[i].question for i in able], [documents[i] for i in able], config)
        for i, answer in zip(able, answers, strict=True):
            given[i][system] = _measure(answer, questions[i], system)
    return [
        Record(
            id=question.id,
            question=question.question,
            answers=question.answers,
            rank=find_rank(question, [hit.passage.text for hit in hits]),
            dense=max((hit.dense for hit in hits), default=-1.0),
            documents=tuple(_read(question, hits[:k], own)),
            given=answers_of,
        )
        for question, hits, own, answers_of in zip(questions, found, documents, given, strict=True)
    ]


def _run(
    system: System,
    generator: Generator,
    questions: Sequence[str],
    documents: Sequence[Sequence[RagDocument]],
    config: EvaluationConfig,
) -> list[RagAnswer]:
    reading = config.decode_by("sequence")  # of one document, or none, both models are the generator
    match system:
        case "closed-book":
            return decode_closed_book(generator, questions, reading)
        case "retrieve-then-read":
            return decode(generator, questions, [own[:1] for own in documents], reading)
        case "concatenated":
            joined = [[RagDocument(text="\n\n".join(each.text for each in own), score=0.0)] for own in documents]
            return decode(generator, questions, joined, reading)
        case "rag-sequence":
            return decode(generator, questions, documents, reading)
        case "rag-token":
            return decode(generator, questions, documents, config.decode_by("token"))


def _measure(answer: RagAnswer, question: Question, system: System) -> Given:
    best = answer.best
    posterior: tuple[float, ...] = ()
    faithfulness: float | None = None
    if system.startswith("rag"):
        posterior = best.posterior
        says = [holds_answer(document.text, [best.text]) for document in answer.documents]
        faithfulness = sum(share for share, said in zip(posterior, says, strict=True) if said)
    return Given(
        text=best.text,
        em=exact_match(best.text, question.answers),
        f1=f1(best.text, question.answers),
        logprob=best.logprob,
        posterior=posterior,
        faithfulness=faithfulness,
    )


def find_rank(question: Question, passages: Sequence[str]) -> int | None:
    """The rank of the first passage that answers a question."""
    return next((rank for rank, text in enumerate(passages, 1) if does_answer(text, question)), None)


def does_answer(passage: str, question: Question) -> bool:
    """Whether a passage holds a right answer and, where the paragraph that answers is known, shares text with it."""
    if not holds_answer(passage, question.answers):
        return False
    return question.context is None or _share_text(answer_tokens(passage), answer_tokens(question.context))


def _share_text(passage: list[str], paragraph: list[str]) -> bool:
    """Whether some words in a row stand in both; passages may begin and end within paragraphs."""
    run = min(_SHARED_WORDS, len(passage), len(paragraph))
    starts = {tuple(paragraph[i : i + run]) for i in range(len(paragraph) - run + 1)}
    return any(tuple(passage[i : i + run]) in starts for i in range(len(passage) - run + 1))


def _read(question: Question, hits: Sequence[Hit], documents: Sequence[RagDocument]) -> Iterator[Read]:
    if not hits:
        return
    prior = document_prior(torch.tensor([[document.score for document in documents]]))[0].exp().tolist()
    for hit, share in zip(hits, prior, strict=True):
        answers = holds_answer(hit.passage.text, question.answers)
        yield Read(place=hit.passage.place, text=hit.passage.text, prior=share, answers=answers)
