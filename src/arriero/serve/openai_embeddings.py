"""`POST /v1/embeddings`: vectors of texts by the encoder of the collections, as numbers or in base64.

The official client asks for base64: little-endian fp32, a quarter of the numbers' text. A text that the encoder would
cut is refused: half of its vector's meaning would be missing without anybody knowing.
"""

import base64
import threading
from typing import Annotated, Any, Literal

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from arriero.rag.contracts import Vectors
from arriero.serve.errors import ERRORS, ApiError
from arriero.serve.fields import Asked, NonEmpty
from arriero.serve.running import watched
from arriero.serve.service import Service

router = APIRouter(prefix="/v1", tags=["openai"], responses=ERRORS)

MOST_INPUTS = 2048

_Inputs = Annotated[list[NonEmpty], Field(min_length=1, max_length=MOST_INPUTS)]


def _check_kind(given: Any) -> Any:
    listed = given if isinstance(given, list) else [given]
    if not all(isinstance(item, str) for item in listed):
        raise PydanticCustomError("input", "expected a text or a list of texts; token ids are not supported")
    return listed


class EmbeddingRequest(Asked):
    """Texts to encode."""

    input: Annotated[_Inputs, BeforeValidator(_check_kind, json_schema_input_type=NonEmpty | _Inputs)]
    model: str | None = Field(default=None, description="The encoder's name, which is also the default.")
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, description="None but the encoder's own.")
    input_type: Literal["query", "passage"] | None = Field(
        default=None, description="For encoders that read questions in another way than passages; by default passages."
    )
    user: str | None = None


class Embedding(BaseModel):
    """A text's vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """All vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class _Left(Exception):
    """Nobody waits for the vectors any more."""


@router.post("/embeddings")
async def embed(asked: EmbeddingRequest, http: Request) -> EmbeddingResponse:
    """Encode texts."""
    service: Service = http.app.state.service
    if asked.model not in (None, service.settings.encoder):
        message = f"there is no encoder '{asked.model}': expected '{service.settings.encoder}'"
        raise ApiError(404, message, "model", "model_not_found")
    cancel = threading.Event()
    limiter: CapacityLimiter = service.encoding
    async with watched(http, cancel):
        tokens, vectors = await to_thread.run_sync(_encode, service, asked, cancel, limiter=limiter)
        told: list[Any] = await to_thread.run_sync(_write, vectors, asked.encoding_format)
    return EmbeddingResponse(
        data=[Embedding(index=index, embedding=vector) for index, vector in enumerate(told)],
        model=service.settings.encoder,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _encode(service: Service, asked: EmbeddingRequest, cancel: threading.Event) -> tuple[int, Vectors]:
    """(tokens read, vectors (N, dim))."""
    encoder = service.encoder
    if asked.dimensions not in (None, encoder.dim):
        message = f"dimensions: this encoder has {encoder.dim}, and they cannot be cut: leave it out"
        raise ApiError(400, message, "dimensions", "invalid_value")
    side = encoder.query if asked.input_type == "query" else encoder.passage
    prompt = side.tower.query_prompt if asked.input_type == "query" else side.tower.passage_prompt
    counts = side.count_tokens(asked.input, prompt)
    for index, count in enumerate(counts):
        if count > side.tower.max_tokens:
            where = f"input[{index}]"
            message = f"{where}: it has {count} tokens, and the encoder reads {side.tower.max_tokens}: cut it in pieces"
            raise ApiError(400, message, where, "context_length_exceeded")

    def advance(done: int) -> None:
        if cancel.is_set():
            raise _Left

    try:
        return sum(counts), side.encode(asked.input, prompt, advance)
    except _Left:
        return 0, np.zeros((0, encoder.dim), dtype=np.float32)


def _write(vectors: Vectors, encoding: str | None) -> list[Any]:
    if encoding == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    rows: list[Any] = vectors.tolist()
    return rows
