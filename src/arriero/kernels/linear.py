"""y = x Wᵀ + b, through whichever of PyTorch's two CPU libraries is the faster one.

`torch.nn.functional.linear` in float32 calls MKL, which on AMD processors leaves half of the speed unused: with
SmolLM2's shapes oneDNN takes 0.35 to 0.6 of its time at 16 rows and more, 0.5 to 0.85 at one row (one EPYC thread;
weights as they lie, not repacked). For half precision PyTorch calls oneDNN itself.

oneDNN's entry point, which `torch.compile` uses too, has no derivative: where gradients are recorded it is left alone.

C input dim, O output dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """PyTorch's layer, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to `x` (…, in_features)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x` (…, C) times the transposed `weight` (O, C), plus `bias` (O,): (…, O)."""
    if uses_onednn(x, weight):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return F.linear(x, weight, bias)


def uses_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` calls oneDNN: float32 on the CPU, no gradients, and a PyTorch built with it."""
    return (
        not torch.is_grad_enabled()
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    )
