"""SwiGLU's product, silu(a) ∘ b (Shazeer, arXiv 2002.05202), with a backward pass that keeps a and b alone.

LLaMA (arXiv 2302.13971, section 2.4) keeps what linear layers put out and computes what is cheap again. Autograd would
keep silu(a) too, as large as each of them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def swiglu(a: Tensor, b: Tensor) -> Tensor:
    """silu(a) ∘ b, for two tensors of one shape."""
    if not torch.is_grad_enabled():
        return F.silu(a).mul_(b)
    product: Tensor = _SwiGLU.apply(a, b)  # type: ignore[no-untyped-call]
    return product


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return F.silu(a).mul_(b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        gate = torch.ops.aten.silu_backward(grad * b, a)  # grad · b · silu'(a)
        return gate, F.silu(a).mul_(grad)
