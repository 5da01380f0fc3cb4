"""The log-probability of each of some tokens, and the entropy of what else could have stood there, without the logits.

Policy gradients weigh every token by a factor that depends on its log-probability (a clipped ratio), so the sum of
`cross_entropy.py`, whose slopes are ready in the forward pass, does not serve. Here the backward pass computes a
chunk's logits again. At a temperature the distribution is the one that was sampled from: softmax(logits / temperature).

N tokens, C model dim, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import CHUNK_BYTES
from arriero.kernels.linear import linear


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `targets` (N,) after `hidden` (N, C), with the output layer's `weight` (V, C).

    Args:
        targets: token ids.
        temperature: of the sampler.
        chunk: rows whose logits exist at one time; by default as many as `CHUNK_BYTES` hold.

    Returns:
        log softmax(hidden · Wᵀ / temperature)[target], (N,) fp32, differentiable by `hidden` and `weight`; and the
        entropies of the same distributions in nats, (N,) fp32, which are not.

    Raises:
        ArrieroError: the shapes do not fit, or the temperature is not above 0.
    """
    if hidden.dim() != 2 or weight.dim() != 2 or weight.shape[1] != hidden.shape[1]:
        shapes = f"{tuple(hidden.shape)} and {tuple(weight.shape)}"
        raise ArrieroError(f"expected hidden (tokens, model dim) and weight (vocabulary, model dim), got {shapes}")
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ArrieroError(f"targets: expected int64 of shape ({len(hidden)},), got {tuple(targets.shape)}")
    if not temperature > 0:
        raise ArrieroError(f"temperature: expected a number above 0, got {temperature}")
    rows = chunk or max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    logprobs, entropies = _TokenLogprobs.apply(hidden, weight, targets, temperature, rows)  # type: ignore[no-untyped-call]
    return logprobs, entropies


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropies = torch.empty_like(logprobs)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            all_logprobs = _log_softmax(hidden[part], weight, temperature)  # (n, V)
            logprobs[part] = all_logprobs.gather(1, targets[part, None])[:, 0]
            entropies[part] = -(all_logprobs.exp() * all_logprobs).sum(1)
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature, ctx.rows = temperature, rows
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            slope = _log_softmax(hidden[part], weight, ctx.temperature).exp_().neg_()  # (n, V) −softmax
            slope[torch.arange(len(slope), device=slope.device), targets[part]] += 1.0  # onehot − softmax
            slope = slope.mul_(grad[part, None] / ctx.temperature).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = linear(slope, weight.T)
            if grad_weight is not None:
                grad_weight += linear(slope.T, hidden[part].T)
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def _log_softmax(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """(n, V) in fp32."""
    return torch.log_softmax(linear(hidden, weight).float() / temperature, dim=-1)
