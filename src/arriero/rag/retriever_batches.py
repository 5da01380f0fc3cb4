"""Batches of questions with their passages; the order and the place to resume from are those of fine-tuning."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from arriero.rag.negatives import Example
from arriero.train.example_batches import UnitBatches
from arriero.train.held_out import own_portions
from arriero.train.supervised import Supervised


@dataclass(frozen=True)
class RetrieverBatch:
    """Questions, and all their passages, each once."""

    questions: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    passages: tuple[str, ...]
    positives: tuple[int, ...]
    """Of each question, the number of its positive among the passages."""
    counts: bool = True
    """False where a process is left without a question: it computes one for the others' sake, that has no loss."""


class RetrieverBatches(UnitBatches[RetrieverBatch]):
    """An endless iterator of batches."""

    def __init__(self, examples: Sequence[Example], *, rows: int, rank: int = 0, world: int = 1, seed: int = 0) -> None:
        """Begin at the first question.

        Args:
            rows: questions of a batch, on each rank.
            rank: this process, among those that see different questions.
            world: their number.
            seed: of the order.
        """
        self._pairs = examples
        nothing = Supervised(np.zeros(1, np.int32), np.zeros(1, np.bool_))
        alone = [(i,) for i in range(len(examples))]
        super().__init__([nothing] * len(examples), alone, rows=rows, rank=rank, world=world, seed=seed)
        told = repr([(each.question.question, each.passages) for each in examples])
        self._fingerprint = hashlib.blake2b(told.encode(), digest_size=12).hexdigest()

    def _lay_out(self, chosen: Sequence[int]) -> RetrieverBatch:
        return lay_out_examples(self._pairs, chosen)


def lay_out_examples(examples: Sequence[Example], chosen: Sequence[int]) -> RetrieverBatch:
    """A batch of the examples of these numbers; of none, the first one, without a loss."""
    own = [examples[i] for i in (list(chosen) or [0])]
    passages = list(dict.fromkeys(text for example in own for text in example.passages))
    return RetrieverBatch(
        tuple(example.question.question for example in own),
        tuple(example.question.answers for example in own),
        tuple(passages),
        tuple(passages.index(example.positive) for example in own),
        counts=bool(chosen),
    )


def evaluation_batches(
    examples: Sequence[Example], *, rows: int, rank: int = 0, world: int = 1
) -> Iterator[RetrieverBatch]:
    """One pass over examples, the same number of batches on every rank."""
    for own in own_portions(len(examples), rows=rows, rank=rank, world=world):
        yield lay_out_examples(examples, own)
