"""How the next token is chosen: each row of a batch by its own settings and from its own random stream.

Sampling is exact over the whole vocabulary and costs one pass over it. `torch.multinomial` over (16, 49152) takes 20 to
50 ms on a CPU. Here the vocabulary is cut into blocks; an exponential race (argmax of w/E with E ~ Exp(1) picks i with
probability w_i/Σw) picks a block by its total, and a second race picks within it: by the chain rule that is the same
distribution, from N + W random numbers in float64 in place of V. A race changes its winner only when two tokens are
nearly level, so the rounding by which a matrix product differs between batch sizes changes a sampled token about as
rarely as it changes an argmax.

Each token of a sampled row draws the same count of numbers from the row's own `torch.Generator`, whatever its settings
and whatever else is in the batch.

Shapes: `B` rows, `V` vocabulary, `N` blocks, `W` tokens in a block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from arriero.common.errors import ArrieroError
from arriero.generate.filters import cut_off, penalise_repetition

_BLOCK = 256  # W: divides the vocabularies of SmolLM2 (49,152), LLaMA (32,000) and Llama 3 (128,256)
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


@dataclass(frozen=True)
class Rules:
    """The settings of a batch's rows as tensors on the logits' device, each (B,), and which steps any row needs."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    penalty: Tensor
    greedy: bool
    filtered: bool
    penalised: bool

    @classmethod
    def of(cls, rows: Sequence[SamplingConfig], device: torch.device | None = None) -> "Rules":
        """One row of rules per config."""

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        sampled = [row for row in rows if row.temperature > 0]
        return cls(
            temperature=column([row.temperature for row in rows]),
            top_k=torch.tensor([min(row.top_k, 2**31) for row in rows], dtype=torch.long, device=device),
            top_p=column([row.top_p for row in rows]),
            min_p=column([row.min_p for row in rows]),
            penalty=column([row.repetition_penalty for row in rows]),
            greedy=not sampled,
            filtered=any(row.top_k > 0 or row.top_p < 1 or row.min_p > 0 for row in sampled),
            penalised=any(row.repetition_penalty != 1 for row in rows),
        )


def shape_logits(logits: Tensor, rules: Rules, seen: Tensor | None = None) -> Tensor:
    """What the sampler sees: penalty, then temperature, then filters (-inf for tokens that may not be chosen).

    logits (B, V); seen (B, V) bool, the tokens of prompt and answer, needed if a row has a penalty. A greedy row keeps
    its scale: its filters play no part. Returns (B, V), the argument itself if nothing applies.
    """
    if rules.penalised:
        assert seen is not None, "a repetition penalty needs the tokens already seen"
        logits = penalise_repetition(logits, seen, rules.penalty)
    if rules.greedy:
        return logits
    sampled = rules.temperature > 0  # (B,)
    logits = logits / torch.where(sampled, rules.temperature, 1.0)[:, None]  # (B, V)
    if rules.filtered:
        cut = cut_off(logits, rules.top_k, rules.top_p, rules.min_p)  # (B, 1)
        logits.masked_fill_((logits < cut) & sampled[:, None], -torch.inf)
    return logits


def choose(shaped: Tensor, rules: Rules, generators: Sequence[torch.Generator]) -> Tensor:
    """The next token of each row: argmax for greedy rows, else a draw from softmax(shaped).  (B,)

    shaped (B, V) from `shape_logits`; generators: one a row, advanced only for rows that sample.
    """
    if rules.greedy:
        return shaped.argmax(-1)
    greedy = (rules.temperature == 0).tolist()
    noise = torch.ones(len(greedy), noise_count(shaped.shape[1]), dtype=torch.float64)
    for row, generator in enumerate(generators):
        if not greedy[row]:
            noise[row].exponential_(generator=generator)
    drawn = race(shaped, noise.to(shaped.device))  # (B,)
    if not any(greedy):
        return drawn
    return torch.where(rules.temperature > 0, drawn, shaped.argmax(-1))


def noise_count(vocab: int) -> int:
    """How many Exp(1) numbers one draw from a vocabulary of this size takes."""
    return -(-vocab // _BLOCK) + _BLOCK


def race(logits: Tensor, noise: Tensor) -> Tensor:
    """Draw from softmax(logits) by two exponential races, over blocks and within the winning block.

    logits (B, V), finite somewhere in each row; noise (B, N + W) float64, Exp(1). Returns token ids (B,).
    """
    weights = (logits - logits.amax(-1, keepdim=True)).exp_()  # (B, V)
    if short := -weights.shape[1] % _BLOCK:
        weights = functional.pad(weights, (0, short))  # (B, N * W)
    blocks = weights.view(len(weights), -1, _BLOCK)  # (B, N, W)
    totals = blocks.sum(-1).double()  # (B, N)
    winner = (totals / noise[:, : totals.shape[1]]).argmax(-1)  # (B,)
    inside = blocks[torch.arange(len(winner), device=winner.device), winner]  # (B, W)
    place: Tensor = (inside / noise[:, totals.shape[1] :]).argmax(-1)  # (B,)
    return winner * _BLOCK + place


def _demand(holds: bool, name: str, expected: str, value: object) -> None:
    if not holds:
        raise ArrieroError(f"{name} must be {expected}, not {value!r}")
