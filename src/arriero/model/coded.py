"""Linear layers whose matrix is stored as codes and constants, in few bits a weight, and does not learn.

What the kinds share (`quantised.py`, under adapters in training; `packed.py`, for inference): the matrix is dequantised
whenever it is used, in the forward pass and again in the backward pass, so that only one exists in full precision at a
time.

O outputs, C inputs.
"""

import sys
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from arriero.common.errors import ArrieroError
from arriero.kernels.linear import Linear, linear


class CodedLinear(nn.Module):
    """A linear layer without bias whose matrix is in buffers."""

    def __init__(self, in_features: int, out_features: int, buffers: dict[str, Tensor]) -> None:
        """Use a kind's `from_linear`."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    @property
    def weight(self) -> Tensor:
        """The matrix (O, C) as it is computed with, fp32; it has no gradient."""
        return self.dequantise()

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix (O, C), computed in fp32 and rounded to `dtype`."""
        raise NotImplementedError

    def product(self, x: Tensor) -> Tensor:
        """`x` (…, C) times the transposed matrix, (…, O), without a derivative."""
        return linear(x, self.dequantise(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to `x` (…, C)."""
        if torch.is_grad_enabled() and x.requires_grad:
            y: Tensor = _FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call]
            return y
        return self.product(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """PyTorch's way to `.to(…)`: device as asked, but the constants keep their dtype, or every weight would change.

        Codes are integers, which `.to(dtype)` leaves alone.
        """
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, constant in before.items():
            moved = self._buffers[name]
            if constant is not None and moved is not None and moved.dtype != constant.dtype:
                self._buffers[name] = constant.to(moved.device)
        return self


class _FrozenProduct(torch.autograd.Function):
    """x Wᵀ, which keeps nothing but the layer's codes: W is dequantised again for the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: CodedLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return linear(grad, ctx.layer.dequantise(grad.dtype).T) if ctx.needs_input_grad[0] else None, None


def dequantise_linear(module: CodedLinear) -> Linear:
    """A plain layer with the matrix as it was computed with, for adapters that are merged into it."""
    plain = Linear(module.in_features, module.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(module.weight, requires_grad=False)
    return plain.train(module.training)


def check_codable(layer: nn.Module) -> None:
    """What can be told of a layer before its matrix is read.

    Raises:
        ArrieroError: it has a bias or adapters, or its matrix is divided among ranks.
    """
    distributed = sys.modules.get("torch.distributed.tensor")  # half a second to import; without it nothing is divided
    if distributed is not None and isinstance(layer.weight, distributed.DTensor):
        raise ArrieroError("a matrix that is divided among ranks cannot be quantised: quantise before that")
    if "bias" in dict(layer.named_parameters(recurse=False)):
        raise ArrieroError("a linear layer with a bias cannot be quantised: expected one without, as LLaMA has")
    if hasattr(layer, "adapters"):
        raise ArrieroError("a layer with adapters cannot be quantised: quantise before you add them")


def check_finite(largest: Tensor) -> None:
    """Raises ArrieroError where the largest numbers of a matrix are no finite ones."""
    if not largest.isfinite().all():
        raise ArrieroError("a matrix with NaN or infinity cannot be quantised: the model is broken")


def divisors(largest: Tensor) -> Tensor:
    """What can be divided by: 0 / 0 shall be 0."""
    return largest.clamp(min=torch.finfo(torch.float32).tiny)
