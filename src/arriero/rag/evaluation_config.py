"""The settings of an evaluation of RAG: which systems, on which questions, and how they find and decode."""

from dataclasses import dataclass
from typing import Literal

from arriero.common.errors import ArrieroError
from arriero.rag.answer_config import REFUSAL_SCORE, Mode
from arriero.rag.decoding_config import Decoding, DecodingConfig, RagKind
from arriero.rag.evaluation_records import SYSTEMS, System


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and how."""

    systems: tuple[System, ...] = SYSTEMS
    """Which systems answer; each is compared with the one before it."""
    k: int | None = None
    """Documents of a question; default: 5, or what a RAG model was trained with."""
    retrieval: Mode = "hybrid"
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
    seed: int | None = None
    """Shuffle the questions by this seed first, so that a limit takes some of all; default: as they stand in the
    files."""

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
