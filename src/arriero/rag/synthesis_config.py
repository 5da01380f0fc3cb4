"""The settings of questions that a model writes: how many of which passages, and what of them is kept."""

from dataclasses import dataclass

from arriero.common.errors import ArrieroError
from arriero.rag.answer_config import Mode


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """What is written, and what of it is kept."""

    per_passage: int = 1
    """Questions to write from each passage."""
    limit: int | None = None
    """Passages to write from, drawn from all; default: all."""
    top: int = 3
    """Keep a question if its passage is among the first so many that it brings back."""
    retrieval: Mode = "hybrid"
    """How it is brought back: dense (meaning), bm25 (words), or hybrid (both, fused by rank)."""
    keep_disputed: bool = False
    """Keep what the model itself, asked with the passage, answers otherwise: more questions, and more wrong ones."""
    temperature: float = 0.7
    """Of the model; 0 takes the likeliest words, and then one question a passage is all there is."""
    max_tokens: int = 80
    """Most tokens of a question with its answer."""
    portion: int = 16
    """Passages that are written from, and written down, together."""
    seed: int = 0
    """Of the choice of passages and of what the model writes."""

    def __post_init__(self) -> None:
        for name in ("per_passage", "limit", "top", "max_tokens", "portion"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArrieroError(f"{name}: expected 1 or more, got {value}")
        if self.temperature == 0 and self.per_passage > 1:
            raise ArrieroError(f"per_passage: expected 1 at temperature 0, got {self.per_passage}: they would be equal")
