"""The settings of how one request is continued.

`sampling.py` chooses tokens by them; this file needs no part of PyTorch, so that help comes at once.
"""

import math
from dataclasses import dataclass
from typing import Literal

from arriero.common.errors import ArrieroError

_COLDEST = 1e-6  # below, logits divided by the temperature could overflow float32


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How one request is continued; the defaults are greedy, so the same prompt gives the same answer."""

    max_tokens: int = 256
    """Most tokens to generate; prompt and answer together must fit the model's context."""
    temperature: float = 0.0
    """Divides the logits before the softmax; 0 takes the likeliest token (greedy)."""
    top_k: int = 0
    """Sample among the k likeliest tokens only; 0 = all."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that together hold this probability; 1 = all."""
    min_p: float = 0.0
    """Sample among tokens at least this fraction as likely as the likeliest; 0 = all."""
    repetition_penalty: float = 1.0
    """Divides the positive and multiplies the negative logits of tokens already in the prompt or answer; 1 = none."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; the answer is cut before them."""
    stop_ids: tuple[int, ...] | None = None
    """Token ids that end the answer; default: those of the tokenizer; () = none, run to max_tokens."""
    seed: int | None = None
    """Random stream of the request, one of 2^32 (low bits count); default: a fresh one, told in the completion."""
    n: int = 1
    """Samples for this prompt, read once; sample i is what seed + i alone would give."""
    logprobs: int | None = None
    """Report log-probabilities (nats): of the chosen token (0), and of the n likeliest beside it; default: none."""
    logprobs_of: Literal["model", "sampler"] = "model"
    """Whose: the model's plain softmax, or what the sampler saw after penalty, temperature and filters."""

    def __post_init__(self) -> None:
        _demand(self.max_tokens >= 1, "max_tokens", "at least 1", self.max_tokens)
        warm = self.temperature == 0 or _COLDEST <= self.temperature < math.inf
        _demand(warm, "temperature", f"0 (greedy) or at least {_COLDEST}", self.temperature)
        _demand(self.top_k >= 0, "top_k", "0 (off) or above", self.top_k)
        _demand(0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (off)", self.top_p)
        _demand(0 <= self.min_p <= 1, "min_p", "between 0 (off) and 1", self.min_p)
        penalty = self.repetition_penalty
        _demand(0.01 <= penalty <= 100, "repetition_penalty", "between 0.01 and 100, 1 being off", penalty)
        _demand(isinstance(self.stop, tuple) and all(self.stop), "stop", "a tuple of non-empty texts", self.stop)
        _demand(self.n >= 1, "n", "at least 1", self.n)
        _demand(self.logprobs is None or self.logprobs >= 0, "logprobs", "0 or above, or none", self.logprobs)
        _demand(self.logprobs_of in ("model", "sampler"), "logprobs_of", "'model' or 'sampler'", self.logprobs_of)
        _demand(self.seed is None or 0 <= self.seed < 2**63, "seed", "between 0 and 2^63 - 1", self.seed)


def _demand(holds: bool, name: str, expected: str, value: object) -> None:
    if not holds:
        raise ArrieroError(f"{name} must be {expected}, not {value!r}")
