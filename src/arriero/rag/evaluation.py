"""RAG measured on questions with known answers, beside what it has to beat, on the same questions in one run.

closed-book          the generator alone: what it knows by itself
retrieve-then-read   the first document alone
concatenated         all documents in one prompt, as most tools do
rag-sequence         RAG's models (Lewis et al., arXiv 2005.11401, section 2.1)
rag-token

Every system answers every question that has an answer; whether a question would be refused is measured apart. What each
question came to is written down as it is there, so that an evaluation that was stopped goes on.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from arriero.common.errors import ArrieroError
from arriero.rag.answer import REFUSAL_SCORE
from arriero.rag.collection import Collection
from arriero.rag.decode import Decoding, DecodingConfig, RagAnswer, RagKind, decode, decode_closed_book
from arriero.rag.generator import Generator, RagDocument
from arriero.rag.qa_metrics import exact_match, f1, holds_answer
from arriero.rag.questions import Question
from arriero.rag.retrieve import as_document, hits_for
from arriero.rag.search import Hit, Mode

System = Literal["closed-book", "retrieve-then-read", "concatenated", "rag-sequence", "rag-token"]
SYSTEMS: tuple[System, ...] = get_args(System)
DEPTH = 20
"""Passages among which the one that answers is looked for."""
RECORDS = "questions.jsonl"
_PORTION = 8
"""Questions that are answered together, and written down together."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and how."""

    systems: tuple[System, ...] = SYSTEMS
    """Which systems answer; each is compared with the one before it."""
    k: int | None = None
    """Documents of a question; default: 5, or what a RAG model was trained with."""
    retrieval: Literal["hybrid", "dense", "bm25"] = "hybrid"
    """How documents are found: dense (meaning), bm25 (words), or hybrid (both, fused by rank)."""
    decoding: Literal["greedy", "beam", "fast"] = "greedy"
    """greedy, as the paper answers questions; beam: beam search, RAG-Sequence's by Thorough Decoding; fast: the same by
    Fast Decoding."""
    beams: int = 4
    """Breadth of a search that is not greedy."""
    max_tokens: int = 24
    """Most tokens of an answer."""
    threshold: float = REFUSAL_SCORE
    """A question whose best passage has a smaller inner product counts as refused."""
    limit: int | None = None
    """Measure on the first so many questions."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.systems if name not in SYSTEMS]:
            raise ArrieroError(f"systems: expected some of {', '.join(SYSTEMS)}, got '{unknown[0]}'")
        if not self.systems:
            raise ArrieroError(f"systems: expected one or more of {', '.join(SYSTEMS)}")
        for name in ("k", "limit", "beams", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArrieroError(f"{name}: expected 1 or more, got {value}")

    def decode_by(self, kind: RagKind) -> DecodingConfig:
        """The decoding of one of RAG's models."""
        usual: Decoding = "thorough" if kind == "sequence" else "beam"
        way: Decoding = "greedy" if self.decoding == "greedy" else usual
        if kind == "sequence" and self.decoding == "fast":
            way = "fast"
        return DecodingConfig(kind=kind, decoding=way, beams=self.beams, max_tokens=self.max_tokens)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What one system answered."""

    text: str
    em: float
    f1: float
    logprob: float
    """log p(y|x) by its own model."""
    posterior: tuple[float, ...] = ()
    """p(z|x, y) of each document, for RAG's models."""
    faithfulness: float | None = None
    """Σ_z p(z|x, y) · [z holds the answer], for RAG's models."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """A document that was read."""

    place: str
    text: str
    prior: float
    """p(z|x)."""
    answers: bool
    """Whether it holds a right answer."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a question came to."""

    id: str
    question: str
    answers: tuple[str, ...]
    rank: int | None
    """Of the first passage that answers, among the first 20; None: it was not found."""
    dense: float
    """The best passage's inner product with the question."""
    documents: tuple[Read, ...]
    given: dict[System, Given] = field(default_factory=dict)


def evaluate(
    collection: Collection,
    generator: Generator,
    questions: Sequence[Question],
    config: EvaluationConfig,
    *,
    k: int,
    scale: float,
    records: Path,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Record]:
    """Answer all questions, and write down what each came to.

    Args:
        collection: the documents; its encoder asks.
        generator: of all systems.
        k: documents of a question.
        scale: length of the query vectors, for p(z|x).
        records: the file to write to; what is in it already is not answered again.
        advance: told how many more questions are done.
    """
    asked = questions[: config.limit]
    done = read_records(records)
    if [record.question for record in done] != [question.question for question in asked[: len(done)]]:
        raise ArrieroError(f"{records} holds other questions: choose another folder")
    advance(len(done))
    with records.open("a", encoding="utf-8") as file:
        for start in range(len(done), len(asked), _PORTION):
            fresh = _answer(collection, generator, asked[start : start + _PORTION], config, k, scale)
            file.write("".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in fresh))
            file.flush()
            done += fresh
            advance(len(fresh))
    return done


def read_records(path: Path) -> list[Record]:
    """What was written down; a last line that a kill cut short is taken away."""
    if not path.is_file():
        return []
    whole = path.read_bytes()
    if not whole.endswith(b"\n"):
        whole = whole[: whole.rfind(b"\n") + 1]
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return [_read_record(json.loads(line)) for line in whole.decode().splitlines()]


def _read_record(row: dict[str, Any]) -> Record:
    given = {name: Given(**{**own, "posterior": tuple(own["posterior"])}) for name, own in row["given"].items()}
    documents = tuple(Read(**document) for document in row["documents"])
    return Record(**{**row, "answers": tuple(row["answers"]), "documents": documents, "given": given})


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
    answerable = [i for i, question in enumerate(questions) if question.answers and documents[i]]
    own = [documents[i] for i in answerable]
    texts = [questions[i].question for i in answerable]
    given: list[dict[System, Given]] = [{} for _ in questions]
    priors: dict[int, tuple[float, ...]] = {}
    for system in config.systems if answerable else ():
        for i, answer in zip(answerable, _run(system, generator, texts, own, config), strict=True):
            given[i][system] = _measure(answer, questions[i], system)
            if system.startswith("rag"):
                priors[i] = answer.prior
    return [
        Record(
            id=question.id,
            question=question.question,
            answers=question.answers,
            rank=find_rank(question, hits),
            dense=max((hit.dense for hit in hits), default=-1.0),
            documents=tuple(_read(question, hits[:k], priors.get(i))),
            given=given[i],
        )
        for i, (question, hits) in enumerate(zip(questions, found, strict=True))
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


def find_rank(question: Question, hits: Sequence[Hit]) -> int | None:
    """The rank of the first passage that answers a question."""
    return next((rank for rank, hit in enumerate(hits, 1) if does_answer(hit.passage.text, question)), None)


def does_answer(passage: str, question: Question) -> bool:
    """Whether a passage holds a right answer and, where the paragraph that answers is known, is of it."""
    if not holds_answer(passage, question.answers):
        return False
    if question.context is None:
        return True
    piece, whole = " ".join(passage.split()), " ".join(question.context.split())
    return piece in whole or whole in piece


def _read(question: Question, hits: Sequence[Hit], prior: Sequence[float] | None) -> Iterator[Read]:
    for hit, share in zip(hits, prior or [0.0] * len(hits), strict=True):
        answers = holds_answer(hit.passage.text, question.answers)
        yield Read(place=hit.passage.place, text=hit.passage.text, prior=share, answers=answers)
