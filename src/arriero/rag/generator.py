"""What RAG asks of a generator p(y_i | x, z, y_<i) (Lewis et al., arXiv 2005.11401, section 2.3).

A prompt is a question with one document. It is read once; then it is decoded from, or answers that are there already
are scored. A decoder-only LLaMA (`llama_generator.py`) and any encoder-decoder (`seq2seq_generator.py`) do this, and
training and decoding know neither.

R prompts (usually k documents for each of some questions), N rows that decode, T tokens of an answer, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class RagDocument:
    """A document z that a question came back with, from a collection or from the caller."""

    text: str
    score: float
    """d(z) · q(x)."""
    title: str = ""
    """Of the whole that it was cut from."""
    passage_id: int | None = None
    """In its collection."""


@dataclass(frozen=True)
class RagPrompt:
    """A question with one document, as the generator reads it."""

    ids: tuple[int, ...]
    shared: int = 0
    """How many of the first tokens do not depend on the question: they can be read once for all questions."""
    cut: bool = False
    """Whether the document lost its end to the context."""


class DecoderState(Protocol):
    """Answers in progress: N rows, each of one prompt."""

    @property
    def logits(self) -> Tensor:
        """(N, V), fp32: of the token after what each row holds."""

    def step(self, tokens: Tensor) -> None:
        """Append a token (N,) to each row."""

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order, repeats allowed."""


class Reading(Protocol):
    """R prompts that were read."""

    def start(self, rows: Sequence[int], max_tokens: int) -> DecoderState:
        """Begin an answer of at most `max_tokens` to the prompts of these numbers, repeats allowed."""

    def logprobs(self, rows: Sequence[int], targets: Sequence[Sequence[int]]) -> Tensor:
        """log p(y_i | x, z, y_<i), (len(rows), T) fp32, without gradients: target n after prompt `rows[n]`; 0 behind
        its end."""


class Generator(Protocol):
    """One model."""

    @property
    def model(self) -> nn.Module:
        """What has the parameters."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def vocab_size(self) -> int:
        """V: how many tokens it can say."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""

    def prompt(self, question: str, document: RagDocument | None, *, reserve: int) -> RagPrompt:
        """The question as it was typed, with a document, or without any (closed book).

        Args:
            question: never cut.
            document: cut at its end where it does not fit.
            reserve: tokens kept for the answer.

        Raises:
            ArrieroError: the question does not fit.
        """

    def target(self, answer: str) -> list[int]:
        """An answer's tokens, with the one that ends it: what `logprobs` scores and training learns."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer's tokens, without what ends it."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token's own text, for pictures."""

    def read(self, prompts: Sequence[RagPrompt]) -> Reading:
        """Read prompts, to decode from; no gradients."""

    def forget(self) -> None:
        """Drop what was kept of prompts: the parameters have changed."""

    def logprobs(self, prompts: Sequence[RagPrompt], targets: Sequence[Sequence[int]]) -> Tensor:
        """log p(y_i | x, z, y_<i), (R, T) fp32, differentiable by the generator's parameters; 0 behind a target's end.

        Args:
            targets: (R,) one for each prompt.
        """
