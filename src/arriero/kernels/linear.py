"""y = x Wᵀ + b, and its derivatives, through whichever of PyTorch's two CPU libraries is the faster one.

`torch.nn.functional.linear` in float32 calls MKL, which on AMD processors leaves half of the speed unused: with
SmolLM2's shapes oneDNN takes 0.35 to 0.6 of its time at 16 rows and more, forward and backward, and 0.5 to 0.85 at one
row (weights as they lie, not repacked). For half precision PyTorch calls oneDNN itself.

PyTorch knows no derivative of oneDNN's entry point, which `torch.compile` uses too; it is written out here.

C input dim, O output dim.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """PyTorch's layer, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to `x` (…, in_features)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x` (…, C) times the transposed `weight` (O, C), plus `bias` (O,): (…, O)."""
    if not uses_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        product: Tensor = _OneDNNLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return product
    return onednn(x, weight, bias)


def uses_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` calls oneDNN: plain float32 tensors on the CPU, not empty, and a PyTorch built with it."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and type(weight) in (Tensor, nn.Parameter)  # a DTensor's shards need PyTorch's own operation
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    )


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` by oneDNN, without a derivative; either matrix may be a transposed view."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, weight.shape[0])  # (N, O)
        grad_x = onednn(rows, weight.T).view(*grad.shape[:-1], weight.shape[1]) if needs_x else None
        grad_weight = onednn(rows.T, x.reshape(-1, weight.shape[1]).T) if needs_weight else None  # (O, C)
        return grad_x, grad_weight, rows.sum(0) if needs_bias else None
