"""The language model's loss without its logits: −log softmax(hidden · Wᵀ)[target], a few rows at a time.

The logits of a batch, N × V, are by far the largest tensor of a training step, and autograd would keep them twice. Here
they live for one chunk of rows. The derivative of a chunk, softmax − onehot, is at hand as soon as its loss is, so the
forward pass turns it into the gradients of `hidden` and W at once; the backward pass only multiplies by what comes from
above. Tokens without a loss, as the prompts of fine-tuning, get no logits at all. Exact: the same sums as the plain
loss, in another order.

N tokens, C model dim, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from arriero.common.errors import ArrieroError
from arriero.kernels.linear import linear

IGNORED = -100
"""Target of a token that has no loss: PyTorch's and Hugging Face's convention."""
CHUNK_BYTES = 2**26
"""Size of a chunk's logits: 340 rows of a vocabulary of 49,152. Fewer rows make slower products."""


def cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, token_weights: Tensor | None = None, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Loss of the tokens `targets` (N,) after `hidden` (N, C), with the output layer's `weight` (V, C).

    Args:
        targets: token ids; `IGNORED` for tokens without a loss.
        token_weights: (N,) factors of the tokens' losses in the sum; 1 by default.
        chunk: rows whose logits exist at one time; by default as many as `CHUNK_BYTES` hold.

    Returns:
        Σ weight · loss, fp32, differentiable by `hidden` and `weight`; and each token's loss (N,), fp32, which is not:
        it is for the metrics. A sum, so that whoever knows all tokens of a step divides once, by their number.

    Raises:
        ArrieroError: naming the argument, what was expected and what came.
    """
    _check(hidden, weight, targets, token_weights)
    factors = (targets != IGNORED).to(torch.float32)  # (N,)
    if token_weights is not None:
        factors = factors * token_weights
    rows = chunk or max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    total, losses = _ChunkedCrossEntropy.apply(hidden, weight, targets, factors, rows)  # type: ignore[no-untyped-call]
    return total, losses


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, factors: Tensor, rows: int
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        losses = hidden.new_zeros(len(hidden), dtype=torch.float32)
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for part in torch.split((targets != IGNORED).nonzero()[:, 0], rows):  # (n,) places of tokens with a loss
            log_probs = torch.log_softmax(linear(hidden[part], weight).float(), dim=-1)  # (n, V)
            losses[part] = -log_probs.gather(1, targets[part, None])[:, 0]
            if not (needs_hidden or needs_weight):
                continue
            slope = _slope(log_probs, targets[part], factors[part]).to(hidden.dtype)  # (n, V)
            if grad_hidden is not None:
                grad_hidden[part] = linear(slope, weight.T)
            if grad_weight is not None:
                grad_weight += linear(slope.T, hidden[part].T)
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(losses)
        return (losses * factors).sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_hidden, grad_weight = (None if x is None else x.mul_(grad_total) for x in ctx.saved_tensors)
        return grad_hidden, grad_weight, None, None, None


def _slope(log_probs: Tensor, targets: Tensor, factors: Tensor) -> Tensor:
    """d (Σ factor · loss) / d logits = factor · (softmax − onehot), (n, V); overwrites the log-probabilities."""
    slope = log_probs.exp_()
    slope[torch.arange(len(targets), device=targets.device), targets] -= 1.0
    return slope.mul_(factors[:, None])


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, token_weights: Tensor | None) -> None:
    if hidden.dim() != 2:
        raise ArrieroError(f"hidden: expected 2 dimensions (tokens, model dim), got shape {tuple(hidden.shape)}")
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[1]:
        raise ArrieroError(f"weight: expected shape (vocabulary, {hidden.shape[1]}), got {tuple(weight.shape)}")
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ArrieroError(
            f"targets: expected int64 of shape ({len(hidden)},), got {targets.dtype} of {tuple(targets.shape)}"
        )
    if token_weights is not None and token_weights.shape != targets.shape:
        raise ArrieroError(f"token_weights: expected shape ({len(hidden)},), got {tuple(token_weights.shape)}")
