"""FlashAttention by our Triton kernels, forward and backward, as one differentiable function.

Dao et al. 2022, arXiv 2205.14135: the forward pass keeps O and the log-sum-exp L, linear in the sequence length; the
backward pass computes the scores again from q, k and v (Algorithm 4), masks and dropout included.

B batch, T query tokens, S key tokens, H heads, K KV heads, D head dim.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from arriero.kernels.flash_backward import flash_backward
from arriero.kernels.flash_forward import flash_forward
from arriero.kernels.flash_tiles import INTERPRETED
from arriero.kernels.options import Options

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_HEAD_DIM = 256


def attention_flash(q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Attend from `q` (B, T, H, D), of which `why_not_triton` says None, to `k`, `v` (B, S, K, D).

    Returns:
        O (B, T, H, D) and L (B, H, T), both differentiable.
    """
    out, log_sum = _FlashAttention.apply(q, k, v, options)  # type: ignore[no-untyped-call]
    return out, log_sum


def why_not_triton(q: Tensor) -> str | None:
    """Why the kernels can't serve these queries; None if they can."""
    if not (q.is_cuda or (q.device.type == "cpu" and INTERPRETED)):
        return f"Triton's kernels need a tensor on a CUDA GPU, or TRITON_INTERPRET=1 set at the start; got {q.device}"
    if q.dtype not in DTYPES:
        return f"the kernels compute in float32, bfloat16 or float16, not in {q.dtype}"
    if INTERPRETED and q.dtype == torch.bfloat16:
        return "Triton's interpreter multiplies bfloat16 wrongly"
    if q.shape[-1] > LARGEST_HEAD_DIM:
        return f"the kernels take head dims up to {LARGEST_HEAD_DIM}, not {q.shape[-1]}"
    return None


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        out, log_sum = flash_forward(q, k, v, options)
        ctx.save_for_backward(q, k, v, out, log_sum)  # in base 2: changing it there and back would round it twice
        ctx.options = options
        ctx.set_materialize_grads(False)
        return out, log_sum * math.log(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, grad_log_sum: Tensor | None) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, log_sum = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros_like(out)
        return *flash_backward(q, k, v, out, log_sum, grad_out, grad_log_sum, ctx.options), None
