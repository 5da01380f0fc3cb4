"""`/v1/completions`: what goes in and what comes out, as the OpenAI API has it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from arriero.serve.chat_schema import FinishReason
from arriero.serve.errors import ApiError
from arriero.serve.fields import MOST_LOGPROBS, Absent, SamplingFields, Text, only
from arriero.serve.usage import Usage

MOST_PROMPTS = 2048

TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Prompt = (
    Text
    | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_PROMPTS)]
)


def _check_kind(prompt: Any) -> Any:
    """One message in place of one for each kind that it is not."""
    listed = prompt if isinstance(prompt, list) and prompt else [prompt]
    texts = all(isinstance(item, str) for item in listed)
    ids = isinstance(prompt, list) and (_are_ids(listed) or all(map(_are_ids, listed)))
    if not (texts or ids):
        expected = "expected a text, a list of texts, a list of token ids, or a list of such lists, none of them empty"
        raise PydanticCustomError("prompt", expected)
    return prompt


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and 0 <= item < 2**31 for item in value)


class CompletionRequest(SamplingFields):
    """Text to continue, outside any chat format."""

    prompt: Annotated[Prompt, BeforeValidator(_check_kind, json_schema_input_type=Prompt)]
    max_tokens: int | None = Field(default=None, ge=0, le=2**31, description="By default 16; 0 goes with echo.")
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    best_of: only(1) = None  # type: ignore[valid-type]
    suffix: Absent = None

    @model_validator(mode="after")
    def _agree(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise ApiError(400, "max_tokens 0 is for echo: expected at least 1", "max_tokens", "invalid_value")
        if self.stream and self.echo and self.logprobs is not None:
            message = "log-probabilities of an echoed prompt cannot be streamed: leave out stream, echo or logprobs"
            raise ApiError(400, message, "stream", "unsupported")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token ids."""
        given: Any = self.prompt
        return given if isinstance(given, list) and not isinstance(given[0], int) else [given]


class CompletionLogprobs(BaseModel):
    """Log-probabilities (nats) of the tokens of a text; all lists are of one length."""

    tokens: list[str]
    """A token that is no whole character is `bytes:\\xe4…`."""
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    """The likeliest, and the token itself."""
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One text."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CompletionResponse(BaseModel):
    """All of them, those of a prompt one behind the other; or a chunk of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
