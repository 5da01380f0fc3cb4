"""RMSNorm, x / √(mean x² + ε) · weight (Zhang and Sennrich, arXiv 1910.07467), with a backward pass that keeps x alone.

PyTorch has no kernel of its own for it on the CPU: autograd would keep x / √(mean x² + ε) too, as large as x.

    ∂x = r · (g − x · r² · mean(g · x)),    g = ∂y · weight,    r = 1 / √(mean x² + ε)

C model dim.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise `x` (…, C) and scale it by `weight` (C,); the mean is taken in fp32 for half-precision inputs."""
    plain = x.device.type == "cpu" and type(weight) in (Tensor, nn.Parameter)  # a DTensor needs PyTorch's own operation
    if not (plain and torch.is_grad_enabled()):
        return F.rms_norm(x, weight.shape, weight, eps)
    normed: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return normed


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        wide = torch.promote_types(x.dtype, torch.float32)
        rows, x_rows = grad.flatten(0, -2).to(wide), x.flatten(0, -2).to(wide)  # (N, C)
        r = torch.rsqrt(x_rows.square().mean(-1, keepdim=True) + ctx.eps)  # (N, 1)
        scaled = x_rows * r  # (N, C)
        grad_weight = torch.linalg.vecdot(rows, scaled, dim=0).to(weight.dtype) if needs_weight else None  # (C,)
        if not needs_x:
            return None, grad_weight, None
        g = rows * weight.to(wide)  # (N, C)
        shared = torch.linalg.vecdot(g, scaled, dim=-1)[:, None] / x.shape[-1]  # (N, 1)
        return g.sub_(scaled * shared).mul_(r).to(x.dtype).view_as(x), grad_weight, None
