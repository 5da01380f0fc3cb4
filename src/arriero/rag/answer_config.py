"""The settings of an answer from a collection: how passages are found and read, and when it is refused."""

from dataclasses import dataclass, field
from typing import Literal

from arriero.common.errors import ArrieroError
from arriero.generate.sampling_config import SamplingConfig

Mode = Literal["hybrid", "dense", "bm25"]
REFUSAL_SCORE = 0.33
"""Of the best passage's inner product with the question (all-MiniLM-L6-v2). Below it fall 2% of XQuAD's 925 questions
to their own documents and none of 48 about Python to Python's reference; and 97% and 92% of them to the other
documents."""


def _sampling() -> SamplingConfig:
    return SamplingConfig(max_tokens=120, stop=("\n\n",))  # a small model's second paragraph repeats the first


@dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """How questions are answered."""

    k: int | None = None
    """Passages that are retrieved; default: 4, or what a RAG model was trained with."""
    sentences: int = 2
    """Sentences of them, nearest to the question, that the model reads; 0 = the passages whole, for larger models."""
    retrieval: Mode = "hybrid"
    """dense (meaning), bm25 (words), or hybrid (both, fused by rank)."""
    threshold: float = REFUSAL_SCORE
    """Refuse when no passage's inner product with the question reaches this; -1 never refuses."""
    instruction: str = ""
    """What the answer must also keep to, such as a language or a tone."""
    sampling: SamplingConfig = field(default_factory=_sampling)

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ArrieroError(f"k must be at least 1, not {self.k}")
        if self.sentences < 0:
            raise ArrieroError(f"sentences must be 0 (passages whole) or above, not {self.sentences}")
        if self.sampling.n != 1:
            raise ArrieroError(f"a question has one answer: expected n = 1, got {self.sampling.n}")
