"""A frozen base in 4 or 8 bits a weight, under adapters that stay in fp32 (QLoRA, Dettmers et al., arXiv 2305.14314).

NF4 gives each weight the nearest of 16 values, the quantiles of a normal distribution, times the largest absolute value
of its block of 64; these maxima are quantised again, to 8 bits in blocks of 256 ("double quantisation"). int8 has one
scale for each row. A matrix is dequantised whenever it is used, in the forward pass and again in the backward pass, so
that only one exists in full precision at a time.

O outputs, C inputs.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from arriero.common.errors import ArrieroError
from arriero.kernels.linear import Linear, linear
from arriero.model.config import LlamaConfig
from arriero.model.transformer import Llama

Quantisation = Literal["none", "nf4", "int8"]
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""QLoRA, appendix E."""
BLOCK, OUTER_BLOCK = 64, 256


class QuantisedLinear(nn.Module):
    """A linear layer without bias whose matrix is stored in few bits, and does not learn."""

    def __init__(self, in_features: int, out_features: int, kind: Quantisation, buffers: dict[str, Tensor]) -> None:
        """Use `from_linear`."""
        super().__init__()
        self.in_features, self.out_features, self.kind = in_features, out_features, kind
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    @classmethod
    def from_linear(cls, layer: nn.Linear, kind: Quantisation) -> "QuantisedLinear":
        """The layer with its matrix quantised.

        Raises:
            ArrieroError: the matrix is divided among ranks, or holds what is no finite number.
        """
        weight = layer.weight.detach()
        if isinstance(weight, DTensor):
            raise ArrieroError("a matrix that is divided among ranks cannot be quantised: quantise before that")
        if not weight.sum().isfinite():
            raise ArrieroError("a matrix with NaN or infinity cannot be quantised: the model is broken")
        if kind not in ("nf4", "int8"):
            raise ArrieroError(f"quantise: expected nf4 or int8, got '{kind}'")
        buffers = _to_int8(weight.float()) if kind == "int8" else _to_nf4(weight.float())
        return cls(layer.in_features, layer.out_features, kind, buffers)

    @property
    def weight(self) -> Tensor:
        """The matrix (O, C) as it is computed with, fp32."""
        if self.kind == "int8":
            return self.codes.float() * self.scales  # type: ignore[operator]
        return _from_nf4(dict(self.named_buffers()), (self.out_features, self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to `x` (…, C)."""
        if not torch.is_grad_enabled():
            return linear(x, self.weight.to(x.dtype))
        y: Tensor = _FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return y


class _FrozenProduct(torch.autograd.Function):
    """x Wᵀ, which keeps nothing: W is dequantised again for the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return linear(x, layer.weight.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        return (linear(grad, ctx.layer.weight.to(grad.dtype).T) if ctx.needs_input_grad[0] else None), None


def quantise_model(model: Llama, kind: Quantisation) -> Llama:
    """Quantise every matrix of the layers, in place, one at a time; embedding, output and norms stay.

    Raises:
        ArrieroError: it is quantised already.
    """
    for name, module in list(model.layers.named_modules()):
        if isinstance(module, QuantisedLinear):
            raise ArrieroError(f"the model is quantised already, to {module.kind}")
        if isinstance(module, nn.Linear):
            model.layers.set_submodule(name, QuantisedLinear.from_linear(module, kind))
    return model


def dequantise_linear(layer: QuantisedLinear) -> Linear:
    """A plain layer with the matrix as it was computed with."""
    plain = Linear(layer.in_features, layer.out_features, bias=False, device=layer.weight.device)
    plain.weight = nn.Parameter(layer.weight, requires_grad=False)
    return plain


def quantised_bytes(config: LlamaConfig, kind: Quantisation) -> int:
    """Bytes of the matrices of all layers."""
    attention = [(config.n_heads, config.dim), (config.n_kv_heads, config.dim), (config.n_kv_heads, config.dim)]
    shapes = [(heads * config.head_dim, dim) for heads, dim in attention]
    shapes += [(config.dim, config.n_heads * config.head_dim), (config.dim, config.hidden_dim)]
    shapes += [(config.hidden_dim, config.dim)] * 2
    return config.n_layers * sum(_bytes(rows, columns, kind) for rows, columns in shapes)


def _bytes(rows: int, columns: int, kind: Quantisation) -> int:
    if kind == "none":
        return 4 * rows * columns
    if kind == "int8":
        return rows * columns + 4 * rows
    blocks = -(-rows * columns // BLOCK)
    outer = -(-blocks // OUTER_BLOCK)
    return blocks * BLOCK // 2 + outer * OUTER_BLOCK + 4 * outer + 4


def _to_int8(weight: Tensor) -> dict[str, Tensor]:
    scales = weight.abs().amax(1, keepdim=True) / 127  # (O, 1)
    codes = (weight / scales.clamp(min=1e-30)).round().to(torch.int8)
    return {"codes": codes, "scales": scales}


def _to_nf4(weight: Tensor) -> dict[str, Tensor]:
    flat = weight.flatten()
    blocks = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)  # (n, 64)
    largest = blocks.abs().amax(1)  # (n,)
    table = torch.tensor(NF4, device=weight.device)
    between = (table[1:] + table[:-1]) / 2
    codes = torch.bucketize(blocks / largest.clamp(min=1e-30)[:, None], between).to(torch.uint8)  # (n, 64)
    mean = largest.mean()
    centred = nn.functional.pad(largest - mean, (0, -len(largest) % OUTER_BLOCK)).view(-1, OUTER_BLOCK)
    scales = centred.abs().amax(1, keepdim=True) / 127  # (m, 1)
    inner = (centred / scales.clamp(min=1e-30)).round().to(torch.int8)
    packed = (codes[:, ::2] << 4) | codes[:, 1::2]  # (n, 32)
    return {"codes": packed, "inner": inner, "scales": scales, "mean": mean}


def _from_nf4(buffers: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
    codes = buffers["codes"]
    largest = (buffers["inner"].float() * buffers["scales"]).flatten()[: len(codes)] + buffers["mean"]  # (n,)
    values = _pairs(codes.device)[codes.int()].view(len(codes), BLOCK) * largest[:, None]  # (n, 64)
    return values.flatten()[: math.prod(shape)].view(shape)


def _pairs(device: torch.device) -> Tensor:
    """The two values of each byte, (256, 2)."""
    table = torch.tensor(NF4, device=device)
    return torch.cartesian_prod(table, table)
