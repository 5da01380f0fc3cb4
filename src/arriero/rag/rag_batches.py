"""Micro-batches of questions; the order, the sharing out and the place to resume from are those of fine-tuning."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from arriero.rag.questions import Question
from arriero.train.example_batches import UnitBatches
from arriero.train.held_out import own_portions
from arriero.train.supervised import Supervised


@dataclass(frozen=True)
class RagBatch:
    """Questions, each with one right answer."""

    questions: tuple[Question, ...]
    targets: tuple[tuple[int, ...], ...]
    """The answers' tokens, with those that end them."""
    counts: bool = True
    """False where a process is left without a question: it computes one for the others' sake, that has no loss."""


class RagBatches(UnitBatches[RagBatch]):
    """An endless iterator of micro-batches of questions."""

    def __init__(
        self,
        questions: Sequence[Question],
        targets: Sequence[Sequence[int]],
        *,
        rows: int,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
    ) -> None:
        """Begin at the first question.

        Args:
            targets: tokens of each question's answer.
            rows: questions of a micro-batch, on each rank.
            accumulation: micro-batches of a step, on each rank.
            rank: this process, among those that see different questions.
            world: their number.
            seed: of the order.
        """
        self._questions, self._targets = questions, targets
        answers = [Supervised(np.asarray(ids, np.int32), np.ones(len(ids), np.bool_)) for ids in targets]
        alone = [(i,) for i in range(len(questions))]
        super().__init__(answers, alone, rows=rows, accumulation=accumulation, rank=rank, world=world, seed=seed)
        asked = repr([question.question for question in questions])
        self._fingerprint = hashlib.blake2b((self._fingerprint + asked).encode(), digest_size=12).hexdigest()

    def _lay_out(self, chosen: Sequence[int]) -> RagBatch:
        return lay_out_questions(self._questions, self._targets, chosen)


def lay_out_questions(
    questions: Sequence[Question], targets: Sequence[Sequence[int]], chosen: Sequence[int]
) -> RagBatch:
    """A micro-batch of the questions of these numbers; of none, the first one, without a loss."""
    numbers = list(chosen) or [0]
    own = tuple(tuple(targets[i]) for i in numbers)
    return RagBatch(tuple(questions[i] for i in numbers), own, counts=bool(chosen))


def evaluation_batches(
    questions: Sequence[Question], targets: Sequence[Sequence[int]], *, rows: int, rank: int = 0, world: int = 1
) -> Iterator[RagBatch]:
    """One pass over questions, the same number of micro-batches on every rank."""
    for own in own_portions(len(questions), rows=rows, rank=rank, world=world):
        yield lay_out_questions(questions, targets, own)
