"""What a training of RAG's models begins with: the documents, their encoder, and questions to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.rag.collection import Collection
from arriero.rag.encoder import Encoder
from arriero.rag.questions import Question, read_questions, split_questions
from arriero.rag.rag_config import QuestionsConfig


class Documents(Protocol):
    """The settings of which documents, and who asks for them."""

    @property
    def collection(self) -> Path:
        """The collection's folder."""

    @property
    def query_encoder(self) -> Path | None:
        """The folder of a query encoder that was trained for it, if any."""


def open_collection(config: Documents) -> Collection:
    """The documents of a run.

    Raises:
        NotFoundError: there is no such collection.
    """
    collection = Collection.open(config.collection, device="cpu", query_encoder=config.query_encoder)
    if not collection.exists:
        raise NotFoundError(f"no collection in {config.collection}: `arriero rag add PATH` makes one")
    return collection


def trainable_encoder(collection: Collection) -> Encoder:
    """The collection's encoder.

    Raises:
        ArrieroError: its weights are not here.
    """
    encoder = collection.encoder
    if not isinstance(encoder, Encoder):
        raise ArrieroError(f"the encoder '{encoder.name}' has no weights here: expected one of a folder")
    return encoder


@dataclass(frozen=True)
class DividedQuestions:
    """Questions with an answer."""

    training: list[Question]
    held_out: list[Question]
    read: int
    """Questions of the files to learn from, those without an answer included."""
    unanswered: int
    """Those without an answer, which are left out."""


def divide_questions(config: QuestionsConfig, seed: int) -> DividedQuestions:
    """Read the questions, and hold out those to measure on: a share, or those of other files.

    Raises:
        NotFoundError, FormatError: as `read_questions`.
    """
    every = read_questions(config.questions, config.format)
    answered = _with_answer(every)
    if config.eval_questions:
        training, held_out = answered, _with_answer(read_questions(config.eval_questions, config.format))
    else:
        training, held_out = split_questions(answered, config.eval_share, seed)
    return DividedQuestions(training, held_out, len(every), len(every) - len(answered))


def _with_answer(questions: Sequence[Question]) -> list[Question]:
    return [question for question in questions if question.answers]
