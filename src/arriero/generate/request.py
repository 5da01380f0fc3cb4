"""What goes into the engine and what comes out of it."""

import threading
from dataclasses import dataclass, field
from typing import Literal

from arriero.common.errors import ArrieroError
from arriero.generate.sampling_config import SamplingConfig

FinishReason = Literal["stop", "length", "cancelled"]
"""A stop token or stop string; max_tokens; the request's `cancel` event."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt to continue."""

    prompt_ids: list[int]
    """Token ids, BOS and template included: the engine adds nothing."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How to continue it."""
    adapter: str | None = None
    """The model's adapter to continue it with, by name; by default the active one, if any. Rows may differ."""
    prompt_logprobs: int | None = None
    """Report the model's log-probabilities of the prompt's tokens (0), and of the n likeliest beside each; default:
    none. The whole prompt is read then, even where part of it is in the cache."""
    cancel: threading.Event | None = None
    """Set it, from any thread, to end the request after the token in progress; its row is freed."""

    def __post_init__(self) -> None:
        top = self.prompt_logprobs
        if top is not None and top < 0:
            raise ArrieroError(f"prompt_logprobs must be 0 or above, or none, not {top}")


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probabilities, in nats, at one generated token."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens and their log-probabilities, descending, as many as `logprobs` asked for."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One finished sample of a request."""

    request: int
    """Index of the request in the list given."""
    sample: int
    """0 … n − 1."""
    ids: tuple[int, ...]
    """All generated tokens, the stop token included, so that they align with `logprobs`."""
    text: str
    """The answer, without stop token or stop string."""
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    """One a token, if asked for."""
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """One a token of the prompt, None for the first, if asked for; None if the request was cancelled before."""
    prompt_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that were read before, for another request, and taken from the cache."""
    seed: int
    """With this seed and n = 1 the same request gives this sample again."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a stream has gained: joined, the texts of a sample are its completion's text."""

    request: int
    sample: int
    text: str
    ids: tuple[int, ...]
    """Tokens since the last delta of this sample; the text may lag behind them."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each of these tokens, if asked for."""
    completion: Completion | None = None
    """On the sample's last delta: the whole."""
