"""A frozen base in 4 or 8 bits a weight, under adapters that stay in fp32 (QLoRA, Dettmers et al., arXiv 2305.14314).

NF4 gives each weight the nearest of 16 values, the quantiles of a normal distribution, times the largest absolute value
of its block of 64 along the row-major matrix; these maxima, less their mean, are quantised again in blocks of 256
("double quantisation", section 3), to 8-bit floats: as in the authors' bitsandbytes those of dynamic trees (Dettmers et
al., arXiv 2110.02861), whose steps are finer near 0, so that one block with outliers does not blur 255 others. Codes
and values agree with bitsandbytes'. int8 has one scale for each row.

O outputs, C inputs; n blocks, m blocks of blocks.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arriero.common.errors import ArrieroError
from arriero.model.choices import Quantisation
from arriero.model.coded import CodedLinear, check_codable, check_finite, divisors
from arriero.model.config import LlamaConfig
from arriero.model.transformer import Llama

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""QLoRA, appendix E."""
BLOCK, OUTER_BLOCK = 64, 256
CHUNK = 2**20
"""Weights that are encoded at a time: what this needs beside the matrix is small."""


class QuantisedLinear(CodedLinear):
    """A linear layer without bias whose matrix is stored in few bits, as buffers, and does not learn."""

    codes: Tensor
    """nf4: two a byte, the first in the high bits, (n, 32) uint8; int8: (O, C)."""
    scales: Tensor
    """fp32: nf4: of blocks of blocks, (m, 1); int8: of rows, (O, 1)."""
    inner: Tensor
    """nf4: codes of the blocks' maxima, (n,) uint8."""
    mean: Tensor
    """nf4: of the blocks' maxima, () fp32."""

    def __init__(self, in_features: int, out_features: int, kind: Quantisation, buffers: dict[str, Tensor]) -> None:
        """Use `from_linear`."""
        super().__init__(in_features, out_features, buffers)
        self.kind = kind

    @classmethod
    def from_linear(cls, linear: nn.Linear, kind: Quantisation) -> "QuantisedLinear":
        """The layer with its matrix quantised.

        Raises:
            ArrieroError: the layer has a bias or adapters, its matrix is divided among ranks or holds what is no finite
                number, or there is no such kind.
        """
        _check(linear, kind)
        weight = linear.weight.detach()
        buffers = _to_int8(weight) if kind == "int8" else _to_nf4(weight)
        return cls(linear.in_features, linear.out_features, kind, buffers).train(linear.training)

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix (O, C), computed in fp32 and rounded to `dtype`."""
        if self.kind == "int8":
            return (self.codes * self.scales).to(dtype)
        shape = self.out_features, self.in_features
        return _from_nf4(self.codes, self.inner, self.scales, self.mean)[: math.prod(shape)].view(shape).to(dtype)


def quantised_to(model: nn.Module) -> Quantisation:
    """To what a model's matrices are quantised."""
    return next((module.kind for module in model.modules() if isinstance(module, QuantisedLinear)), "none")


def quantise_model(model: Llama, kind: Quantisation) -> Llama:
    """Quantise every matrix of the layers, in place, one at a time; embedding, output and norms stay.

    Raises:
        ArrieroError: it is quantised already, or `QuantisedLinear.from_linear` refuses one of its layers.
    """
    for module in model.layers.modules():
        if isinstance(module, CodedLinear):
            kind_now = module.kind if isinstance(module, QuantisedLinear) else "packed weights"
            raise ArrieroError(f"the model is quantised already, to {kind_now}: expected one in full precision")
        if isinstance(module, nn.Linear):
            _check(module, kind)
    for name in [name for name, module in model.layers.named_modules() if isinstance(module, nn.Linear)]:
        plain = model.layers.get_submodule(name)
        assert isinstance(plain, nn.Linear)
        model.layers.set_submodule(name, QuantisedLinear.from_linear(plain, kind))
    return model


def quantised_bytes(config: LlamaConfig, kind: Quantisation) -> int:
    """Bytes of all layers' matrices, with their constants; none: in fp32. Embedding, output and norms are not in it."""
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
    return blocks * BLOCK // 2 + blocks + 4 * -(-blocks // OUTER_BLOCK) + 4


def _check(layer: nn.Module, kind: Quantisation) -> None:
    """What can be told before a matrix is read."""
    if kind not in ("nf4", "int8"):
        raise ArrieroError(f"quantise: expected nf4 or int8, got '{kind}'")
    check_codable(layer)


def _to_int8(weight: Tensor) -> dict[str, Tensor]:
    """Codes and scales of W (O, C)."""
    largest = weight.abs().amax(1, keepdim=True).float()  # (O, 1)
    check_finite(largest)
    scales = largest / 127
    codes = (weight / divisors(scales)).round_().to(torch.int8)  # (O, C)
    return {"codes": codes, "scales": scales}


def _to_nf4(weight: Tensor) -> dict[str, Tensor]:
    """Codes of W (O, C), and those of its blocks' maxima with their constants."""
    parts = [_encode(part) for part in weight.flatten().split(CHUNK)]  # type: ignore[no-untyped-call]
    codes, largest = torch.cat([codes for codes, _ in parts]), torch.cat([maxima for _, maxima in parts])
    check_finite(largest)
    mean = largest.mean()
    outer = F.pad(largest - mean, (0, -len(largest) % OUTER_BLOCK)).view(-1, OUTER_BLOCK)  # (m, 256)
    scales = outer.abs().amax(1, keepdim=True)  # (m, 1)
    inner = _nearest(outer / divisors(scales), _dynamic_tree(weight.device)).flatten()[: len(largest)].clone()  # (n,)
    return {"codes": codes, "inner": inner, "scales": scales, "mean": mean}


def _encode(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (n, 32) and maxima (n,) of the blocks of weights (N,)."""
    blocks = F.pad(weights.float(), (0, -len(weights) % BLOCK)).view(-1, BLOCK)  # (n, 64)
    largest = blocks.abs().amax(1)  # (n,)
    codes = _nearest(blocks / divisors(largest)[:, None], _normal_float(weights.device))  # (n, 64)
    return (codes[:, ::2] << 4) | codes[:, 1::2], largest


def _nearest(values: Tensor, table: Tensor) -> Tensor:
    """The number of the nearest entry of an ascending table, uint8, for each value."""
    return torch.bucketize(values, (table[1:] + table[:-1]) / 2, out_int32=True).to(torch.uint8)


def _from_nf4(codes: Tensor, inner: Tensor, scales: Tensor, mean: Tensor) -> Tensor:
    """The weights (64 n,), with those that only fill the last block."""
    outer = scales.flatten().repeat_interleave(OUTER_BLOCK)[: len(inner)]  # (n,)
    largest = _dynamic_tree(codes.device).index_select(0, inner.int()) * outer + mean  # (n,)
    pairs = _pairs(codes.device).index_select(0, codes.flatten().int())  # (32 n,)
    return pairs.view(torch.float32).view(-1, BLOCK).mul_(largest[:, None]).flatten()


@cache
def _normal_float(device: torch.device) -> Tensor:
    return torch.tensor(NF4, device=device)


@cache
def _pairs(device: torch.device) -> Tensor:
    """The two values of each byte, (256,): fp32 both, side by side in 64 bits, so that they are fetched at once."""
    return torch.cartesian_prod(_normal_float(device), _normal_float(device)).view(torch.int64).flatten()


@cache
def _dynamic_tree(device: torch.device) -> Tensor:
    """An 8-bit float's values, (256,): in each decade below 1, half as many as in the one above it; and 0 and 1."""
    positive = [torch.ones(1)]
    for decade in range(7):
        bounds = torch.linspace(0.1, 1, 2 ** (6 - decade) + 1)
        positive.append(10.0**-decade * (bounds[1:] + bounds[:-1]) / 2)
    values = torch.cat(positive)  # (128,)
    return torch.cat([values, torch.zeros(1), -values[1:]]).sort().values.to(device)
