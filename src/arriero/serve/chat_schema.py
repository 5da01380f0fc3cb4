"""`/v1/chat/completions`: what goes in and what comes out, as the OpenAI API has it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError

from arriero.rag.answer_config import Mode
from arriero.serve.errors import ApiError
from arriero.serve.fields import MOST_LOGPROBS, MOST_MESSAGES, Absent, Asked, NonEmpty, SamplingFields, Text, only
from arriero.serve.usage import Usage
from arriero.tokenizer.chat import Message


def _refuse_media(kind: Any) -> Any:
    if kind != "text" and isinstance(kind, str):
        what = {"image_url": "images are", "input_audio": "audio is", "file": "files are"}.get(kind, "it is")
        raise PydanticCustomError("unsupported", "{what} not supported by this server: send text", {"what": what})
    return kind


class TextPart(Asked):
    """A part of a message."""

    type: Annotated[Literal["text"], BeforeValidator(_refuse_media)]
    text: Text


class ChatMessage(Asked):
    """One turn of the chat. An answer may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=MOST_MESSAGES)]
    name: Absent = None
    refusal: Absent = None
    audio: Absent = None
    annotations: only([]) = None  # type: ignore[valid-type]
    function_call: Absent = None
    tool_calls: only([]) = None  # type: ignore[valid-type]

    def plain(self) -> Message:
        """As templates take it."""
        whole = isinstance(self.content, str)
        return {"role": self.role, "content": self.content if whole else "".join(part.text for part in self.content)}  # type: ignore[union-attr,typeddict-item]


class GroundedFields(Asked):
    """How a collection of documents answers."""

    model: str | None = Field(default=None, description="Who answers: a model or an adapter; by default the first.")
    collection: str | None = Field(default=None, description="By default that of the model's name, `arriero:NAME`.")
    k: int | None = Field(default=None, ge=1, le=64, description="Passages that are retrieved.")
    sentences: int | None = Field(default=None, ge=0, le=64, description="Sentences of them that are read; 0: all.")
    retrieval: Mode | None = None
    threshold: float | None = Field(default=None, ge=-1e6, le=1e6, description="Refuse where no passage is as near.")


class ChatRequest(SamplingFields):
    """A chat to continue."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES), FailFast()]
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31, description="The newer name of max_tokens.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    arriero: GroundedFields | None = None
    audio: Absent = None
    function_call: only("none", "auto") = None  # type: ignore[valid-type]
    functions: only([]) = None  # type: ignore[valid-type]
    modalities: only(["text"]) = None  # type: ignore[valid-type]
    parallel_tool_calls: only(True, False) = None  # type: ignore[valid-type]
    prediction: Absent = None
    prompt_cache_key: NonEmpty | None = Field(default=None, description="Prompts share the cache without it.")
    reasoning_effort: Absent = None
    response_format: only({"type": "text"}) = None  # type: ignore[valid-type]
    safety_identifier: str | None = None
    service_tier: only("auto", "default") = None  # type: ignore[valid-type]
    store: only(False) = None  # type: ignore[valid-type]
    tool_choice: only("none", "auto") = None  # type: ignore[valid-type]
    tools: only([]) = None  # type: ignore[valid-type]
    verbosity: Absent = None
    web_search_options: Absent = None

    @model_validator(mode="after")
    def _agree(self) -> "ChatRequest":
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            message = "max_tokens and max_completion_tokens differ: they are two names of one thing"
            raise ApiError(400, message, "max_tokens", "invalid_value")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs to be true", "top_logprobs", "invalid_value")
        return self

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of the answer, where the client says."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def reported(self) -> int | None:
        """How many likeliest tokens to report beside each; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


# Responses are written without the fields that were not set, so what clients look for is set always: no defaults.


class TopLogprob(BaseModel):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities (nats) of an answer's tokens."""

    content: list[ChatLogprob]
    refusal: None


class Answered(BaseModel):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    refusal: None


FinishReason = Literal["stop", "length"]


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: Answered
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class Sources(BaseModel):
    """What an answer from documents stands on."""

    collection: str
    citations: list[dict[str, Any]]
    passages: list[dict[str, Any]]
    grounded: Literal["full", "partial", "none"]
    refused: bool


class ChatResponse(BaseModel):
    """All answers to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    arriero: Sources | None = None


class ChatDelta(BaseModel):
    """What an answer has gained."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """One answer's part of a chunk."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(BaseModel):
    """A piece of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    arriero: Sources | None = None
