"""What a retriever is trained on: for each question a passage that answers it, and some that only look like it.

Hard negatives are passages that BM25 and the index rank high and that hold no right answer (Karpukhin et al. 2020,
arXiv 2004.04906, section 3.2; Xiong et al. 2020, arXiv 2007.00808). Where nobody says which passage answers, it is the
best one that holds a right answer, as DPR has it for such questions (section 4.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from arriero.rag.collection import Collection
from arriero.rag.evaluation import does_answer
from arriero.rag.qa_metrics import holds_answer
from arriero.rag.questions import Question
from arriero.rag.search import Hit

_LOOKED_AT = 50
"""Passages of each list among which positives and negatives are looked for."""


@dataclass(frozen=True)
class Example:
    """A question with the passages to learn from."""

    question: Question
    positive: str
    negatives: tuple[str, ...]

    @property
    def passages(self) -> tuple[str, ...]:
        """The positive, then the negatives."""
        return self.positive, *self.negatives


def mine_examples(
    collection: Collection,
    questions: Sequence[Question],
    negatives: int,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[list[Example], int]:
    """Examples of the questions that some passage answers, and the number of the others.

    Args:
        collection: where passages are looked for.
        questions: with right answers.
        negatives: of each question; fewer where fewer are found.
        advance: told how many more questions are done.
    """
    vectors = collection.encoder.encode_queries([question.question for question in questions])
    examples, lost = [], 0
    for question, vector in zip(questions, vectors, strict=True):
        by_words = collection.search_vector(question.question, vector, k=_LOOKED_AT, mode="bm25")
        by_vector = collection.search_vector(question.question, vector, k=_LOOKED_AT, mode="dense")
        positive = _find_positive(question, by_words, by_vector)
        if positive is None:
            lost += 1
        else:
            examples.append(Example(question, positive, _pick(question, positive, by_words, by_vector, negatives)))
        advance(1)
    return examples, lost


def _find_positive(question: Question, by_words: Sequence[Hit], by_vector: Sequence[Hit]) -> str | None:
    """The best passage that answers, by rank in either list; else what the file of questions gives."""
    found = [hit.passage.text for hit in _interleave(by_words, by_vector) if does_answer(hit.passage.text, question)]
    given = [text for text in (question.context, *question.positives) if text is not None]
    return next(iter([*found, *given]), None)


def _pick(
    question: Question, positive: str, by_words: Sequence[Hit], by_vector: Sequence[Hit], count: int
) -> tuple[str, ...]:
    """Negatives by turns from both lists, behind those that the file of questions gives."""
    ranked = [*question.negatives, *(hit.passage.text for hit in _interleave(by_words, by_vector))]
    known = {positive, *question.positives}
    fit = (text for text in dict.fromkeys(ranked) if text not in known and not holds_answer(text, question.answers))
    return tuple(text for _, text in zip(range(count), fit, strict=False))


def _interleave(one: Sequence[Hit], other: Sequence[Hit]) -> list[Hit]:
    return [hit for hit in chain.from_iterable(zip_longest(one, other)) if hit is not None]
