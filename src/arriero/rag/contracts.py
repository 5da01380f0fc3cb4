"""What the collection asks of an encoder, of a vector index, and of who answers, so that others can stand behind it."""

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from arriero.generate.request import Delta, Request
from arriero.tokenizer.tokenizer import Tokenizer

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Advance = Callable[[int], None]
"""Told how many more are done."""


class TextEncoder(Protocol):
    """Texts to vectors; queries and passages each in their own way."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def dim(self) -> int:
        """Size of a vector."""

    @property
    def fingerprint(self) -> str:
        """Equal for two encoders only if they give the same vectors."""

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """(N, dim), fp32."""

    def encode_passages(self, texts: Sequence[str], advance: Advance | None = None) -> Vectors:
        """(N, dim), fp32."""


class VectorIndex(Protocol):
    """Search by inner product: FAISS in this process, or a server."""

    def search(self, query: Vectors, k: int, allowed: Ids | None = None) -> list[int]:
        """Ids of the k largest inner products with `query` (dim,), best first; among `allowed` alone where given."""


class ChatModel(Protocol):
    """An engine, or what stands in its place."""

    @property
    def tokenizer(self) -> Tokenizer:
        """With the chat template."""

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """What the answer gains, piece by piece; closing it ends the request."""
