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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from arriero.generate.filters import cut_off, keep_above, penalise_repetition, weigh
from arriero.generate.sampling_config import SamplingConfig

_BLOCK = 256  # W: divides the vocabularies of SmolLM2 (49,152), LLaMA (32,000) and Llama 3 (128,256)


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

    logits (B, V); seen (S,), row · V + token of each token of prompts and answers, needed if a row has a penalty. A
    greedy row keeps its scale: its filters play no part. Returns (B, V), the argument itself if nothing applies.
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
        logits = keep_above(logits, cut.masked_fill(~sampled[:, None], -torch.inf))  # (B, V)
    return logits


def choose(shaped: Tensor, rules: Rules, generators: Sequence[torch.Generator]) -> Tensor:
    """The next token of each row: argmax for greedy rows, else a draw from softmax(shaped).  (B,)

    shaped (B, V) from `shape_logits`; generators: one a row, advanced only for rows that sample.
    """
    if rules.greedy:
        return _likeliest(shaped)
    greedy = (rules.temperature == 0).tolist()
    noise = torch.ones(len(greedy), noise_count(shaped.shape[1]), dtype=torch.float64)
    for row, generator in enumerate(generators):
        if not greedy[row]:
            noise[row].exponential_(generator=generator)
    drawn = race(shaped, noise.to(shaped.device))  # (B,)
    if not any(greedy):
        return drawn
    return torch.where(rules.temperature > 0, drawn, _likeliest(shaped))


def noise_count(vocab: int) -> int:
    """How many Exp(1) numbers one draw from a vocabulary of this size takes."""
    return -(-vocab // _BLOCK) + _BLOCK


def race(logits: Tensor, noise: Tensor) -> Tensor:
    """Draw from softmax(logits) by two exponential races, over blocks and within the winning block.

    logits (B, V), finite somewhere in each row; noise (B, N + W) float64, Exp(1). Returns token ids (B,).
    """
    blocks = _cut_into_blocks(weigh(logits), 0.0)  # (B, N, W)
    totals = blocks.sum(-1).double()  # (B, N)
    winner = (totals / noise[:, : totals.shape[1]]).argmax(-1)  # (B,)
    inside = blocks[torch.arange(len(winner), device=winner.device), winner]  # (B, W)
    place: Tensor = (inside / noise[:, totals.shape[1] :]).argmax(-1)  # (B,)
    return winner * _BLOCK + place


def _likeliest(logits: Tensor) -> Tensor:
    """The first of each row's highest logits (B, V), (B,): the highest of blocks takes a tenth of argmax's time."""
    blocks = _cut_into_blocks(logits, -torch.inf)  # (B, N, W)
    winner = blocks.amax(-1).argmax(-1)  # (B,)
    inside = blocks[torch.arange(len(winner), device=winner.device), winner]  # (B, W)
    return winner * _BLOCK + inside.argmax(-1)


def _cut_into_blocks(rows: Tensor, filling: float) -> Tensor:
    """(B, V) as (B, N, W), the last block filled up."""
    if short := -rows.shape[1] % _BLOCK:
        rows = functional.pad(rows, (0, short), value=filling)  # (B, N * W)
    return rows.view(len(rows), -1, _BLOCK)  # (B, N, W)
