"""What the requests of both ways to ask have in common: how to sample, and fields that only one value is taken for.

A field that the server knows and does not support is accepted with the value that means "without it", as some clients
send it always, and refused by name with any other.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from arriero.generate.sampling_config import SamplingConfig

MOST_SAMPLES = 128
MOST_LOGPROBS = 20
MOST_STOPS = 16
MOST_MESSAGES = 10_000
MOST_METADATA = 16

_COLDEST = 1e-5
"""A temperature below it is greedy."""


def only(*neutral: Any) -> Any:
    """A field that takes these values alone, and null."""

    def check(value: Any) -> Any:
        if value is not None and not any(
            value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral
        ):
            raise PydanticCustomError("unsupported", "not supported by this server: leave it out")
        return value

    return Annotated[Any, AfterValidator(check), WithJsonSchema({"enum": [None, *neutral]})]


def _check_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = "it holds a lone surrogate at character {at}: it is no valid Unicode"
        raise PydanticCustomError("not_unicode", message, {"at": error.start}) from error
    return text


Absent: TypeAlias = only()  # type: ignore[valid-type]
Zero: TypeAlias = only(0)  # type: ignore[valid-type]
Off: TypeAlias = only(False)  # type: ignore[valid-type]
Text = Annotated[str, AfterValidator(_check_unicode)]
NonEmpty = Annotated[Text, Field(min_length=1)]


class Asked(BaseModel):
    """Something that a client sends: no field is guessed, none is overlooked."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_all_unknown_but_one(cls, given: Any) -> Any:
        """One is named to the client; to find fault with each of a hundred thousand takes seconds."""
        if not isinstance(given, dict):
            return given
        unknown = islice((name for name in given if name not in cls.model_fields), 1)
        return {name: given[name] for name in [*cls.model_fields, *unknown] if name in given}


class StreamOptions(Asked):
    """What a stream tells beside the text."""

    include_usage: bool = False
    """End with a chunk that counts tokens."""
    include_obfuscation: Off = None


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_StopList = Annotated[list[NonEmpty], Field(max_length=MOST_STOPS)]
Stops = Annotated[_StopList | None, BeforeValidator(_listed, json_schema_input_type=NonEmpty | _StopList | None)]


def _check_few(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MOST_METADATA:
        raise PydanticCustomError("too_many", "expected {most} entries at most", {"most": MOST_METADATA})
    return value


Metadata = Annotated[dict[str, str], Field(max_length=MOST_METADATA), BeforeValidator(_check_few)]


class SamplingFields(Asked):
    """How to continue a prompt."""

    model: str | None = Field(default=None, description="A name of /v1/models; by default the first.")
    max_tokens: int | None = Field(default=None, ge=1, le=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=2**31, description="Sample among so many tokens; 0 and -1: all.")
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    stop: Stops = None
    stop_token_ids: list[Annotated[int, Field(ge=0, le=2**31)]] | None = Field(default=None, max_length=MOST_STOPS)
    ignore_eos: bool = Field(default=False, description="Go on to max_tokens, whatever the model says.")
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=MOST_SAMPLES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: Metadata | None = None
    frequency_penalty: Zero = None
    presence_penalty: Zero = None
    logit_bias: only({}) = None  # type: ignore[valid-type]

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a count of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(
        self, max_tokens: int, logprobs: int | None, stop_ids: frozenset[int], defaults: Mapping[str, Any]
    ) -> SamplingConfig:
        """The engine's settings; what neither client nor model says is as OpenAI has it: the plain distribution.

        Args:
            max_tokens: most tokens of the answer.
            logprobs: how many likeliest tokens to report.
            stop_ids: tokens that end an answer of the model.
            defaults: how the model wants to be sampled.
        """
        ends = {*(() if self.ignore_eos else stop_ids), *(self.stop_token_ids or ())}
        own = {"max_tokens": max_tokens, "logprobs": logprobs, "stop_ids": tuple(sorted(ends)), "n": self.n or 1}
        return SamplingConfig(**({"temperature": 1.0} | dict(defaults) | self.given_sampling() | own))

    def given_sampling(self) -> dict[str, Any]:
        """What the client said of how to choose tokens, in the engine's names."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if "temperature" in given and given["temperature"] < _COLDEST:
            given["temperature"] = 0.0
        if "top_k" in given:
            given["top_k"] = max(0, given["top_k"])
        if "seed" in given:
            given["seed"] %= 2**63
        return given | ({"stop": tuple(self.stop)} if self.stop else {})
