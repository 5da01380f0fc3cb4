"""Weights in 4 or 8 bits for inference: groups of 32 inputs share a scale, as in GGUF's Q4_1 and Q8_0.

int4: w = scale · code + min with codes 0 to 15, scale = (largest − least) / 15 and min = least of the group: 5 bits a
weight. int8: w = scale · (code − 128) with codes 1 to 255 and scale = largest |w| / 127: 8.5 bits a weight. Scales and
mins are fp16, the codes the nearest given these; so weights that were dequantised from Q4_1 or Q8_0, and whose groups
use the whole range of their codes, get their file's codes and scales again.

The layout is made for a processor's dot products of 4 bytes (VNNI): tile t has 16 output rows r, group g 32 inputs,
vector j of a group 4 inputs i of each row, 64 bytes that are read at once. Outputs are padded with rows of zeros to
whole tiles.

    int4  codes (O/16, C/32, 4, 16, 4): byte [t, g, j, r, i] has in its low half the code of input 32g + 4j + i of row
          16t + r, in its high half that of input 32g + 16 + 4j + i; scales and mins (O/16, C/32, 16)
    int8  codes (O/16, C/32, 8, 16, 4): [t, g, j, r, i] is input 32g + 4j + i; scales (O/16, C/32, 16)

On a CPU in fp32, compiled code multiplies the codes with inputs that are rounded to 15 bits in groups of 32
(`kernels/native/packed.h`), which is nearly exact. Where there is none, a product dequantises the matrix to the input's
dtype: on a CPU a few tiles at a time, which stay in its cache, so that no full matrix is made; elsewhere one layer's
matrix at once. That costs memory nothing and time a lot where few tokens are computed together.

O outputs, C inputs; R rows of some tiles, G groups of a row.
"""

from dataclasses import replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arriero.common.errors import ArrieroError
from arriero.kernels.linear import linear
from arriero.kernels.native.build import why_not_native
from arriero.kernels.native.library import Matrix, multiply
from arriero.model.coded import CodedLinear, check_codable, check_finite, divisors
from arriero.model.transformer import Llama

Bits = Literal[4, 8]
Weights = Literal["full", "int8", "int4"]
"""How a model's matrices are held: as they are; all in 8 bits; the layers' in 4 and the output's in 8 bits."""

ROWS, GROUP = 16, 32
"""Outputs of a tile, inputs of a group."""
CHUNK = 2**18
"""Weights that are encoded or, on a CPU, multiplied at a time: 1 MiB of fp32."""


class PackedLinear(CodedLinear):
    """A linear layer without bias whose matrix has 4 or 8 bits a weight; its buffers are laid out as above."""

    codes: Tensor
    """uint8."""
    scales: Tensor
    """fp16."""
    mins: Tensor
    """fp16; int4 only."""

    def __init__(self, in_features: int, out_features: int, bits: Bits, buffers: dict[str, Tensor]) -> None:
        """Use `from_linear` or `from_weight`."""
        super().__init__(in_features, out_features, buffers)
        self.bits = bits

    @classmethod
    def from_linear(cls, linear: nn.Linear | CodedLinear, bits: Bits) -> "PackedLinear":
        """The layer with its matrix packed; one that is quantised otherwise is dequantised first.

        Raises:
            ArrieroError: as `from_weight`, or the layer is packed already, has a bias or adapters, or its matrix is
                divided among ranks.
        """
        if isinstance(linear, PackedLinear):
            raise ArrieroError(f"a layer is packed already, in {linear.bits} bits: expected one in full precision")
        check_codable(linear)
        return cls.from_weight(linear.weight.detach(), bits).train(linear.training)

    @classmethod
    def from_weight(cls, weight: Tensor, bits: Bits) -> "PackedLinear":
        """A layer of the matrix `weight` (O, C) of any floating dtype, on its device.

        Raises:
            ArrieroError: C is no multiple of 32, or a weight is not finite or too large for fp16.
        """
        outputs, inputs = weight.shape
        if inputs % GROUP:
            raise ArrieroError(f"a matrix of {inputs} inputs cannot be packed: expected a multiple of {GROUP}")
        encode = _to_int4 if bits == 4 else _to_int8
        parts = [encode(part.float()) for part in torch.split(weight, _chunk_rows(inputs))]
        buffers = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return cls(inputs, outputs, bits, buffers)

    def dequantise(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix (O, C), computed in fp32 and rounded to `dtype`."""
        return self._rows(0, self.out_features, dtype)

    def product(self, x: Tensor) -> Tensor:
        """`x` (…, C) times the transposed matrix, (…, O), without a derivative."""
        if x.device.type != "cpu":
            return linear(x, self.dequantise(x.dtype))
        if x.dtype == torch.float32 and x.numel() and why_not_native() is None:
            mins = self.mins if self.bits == 4 else None
            matrix = Matrix.of(self.codes, self.scales, mins, self.in_features, self.bits)
            return multiply(matrix, x)[..., : self.out_features]
        y = x.new_empty(*x.shape[:-1], self.out_features)
        step = _chunk_rows(self.in_features)
        for first in range(0, self.out_features, step):
            y[..., first : first + step] = linear(x, self._rows(first, first + step, x.dtype))
        return y

    def _rows(self, first: int, last: int, dtype: torch.dtype) -> Tensor:
        """Rows `first`, the first of a tile, up to `last` of the matrix."""
        tiles = slice(first // ROWS, -(-last // ROWS))
        scales = self.scales[tiles].transpose(1, 2).float()  # (tiles, 16, G)
        codes = self.codes[tiles].permute(0, 3, 1, 2, 4)  # (tiles, 16, G, 4 or 8, 4)
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], dim=3)  # (tiles, 16, G, 2, 4, 4)
            weights = codes.flatten(3).float().mul_(scales[..., None])  # (tiles, 16, G, 32)
            weights += self.mins[tiles].transpose(1, 2).float()[..., None]
        else:
            weights = codes.flatten(3).float().sub_(128).mul_(scales[..., None])  # (tiles, 16, G, 32)
        rows = min(last, self.out_features) - first
        return weights.view(-1, self.in_features)[:rows].to(dtype)


def pack_model(model: Llama, weights: Weights) -> Llama:
    """Pack every matrix of the layers and of the output, in place, one at a time; embedding and norms stay.

    int4 has 8 bits for the output, whose errors fall on the logits undamped. An output that shares the embedding's
    matrix is one of its own from then on, in the model's config too. What is packed so already stays as it is.

    Raises:
        ArrieroError: as `check_packable` and `PackedLinear.from_linear`.
    """
    check_packable(model, weights)
    if weights == "full":
        return model
    for name, layer in _matrices(model).items():
        if not isinstance(layer, PackedLinear):
            model.set_submodule(name, PackedLinear.from_linear(layer, bits_of(name, weights)))
    model.config = replace(model.config, tied_embeddings=False)
    return model


def check_packable(model: Llama, weights: Weights) -> None:
    """What can be told before a matrix is read.

    Raises:
        ArrieroError: there is no such kind of weights, or a layer cannot be packed, or is packed otherwise.
    """
    if weights not in ("full", "int8", "int4"):
        raise ArrieroError(f"weights: expected full, int8 or int4, got '{weights}'")
    if weights == "full":
        return
    for name, layer in _matrices(model).items():
        if isinstance(layer, PackedLinear) and layer.bits != bits_of(name, weights):
            raise ArrieroError(f"the model is packed already, {name} in {layer.bits} bits: expected full precision")
        if layer.in_features % GROUP:
            raise ArrieroError(
                f"{name} has {layer.in_features} inputs, and {weights} weights need a multiple of {GROUP}: take "
                "--weights full"
            )
        if not isinstance(layer, PackedLinear):
            check_codable(layer)


def is_packable(name: str, module: nn.Module) -> bool:
    """Whether a module of a model is one of the matrices that are packed."""
    return isinstance(module, (nn.Linear, CodedLinear)) and (name == "output" or name.startswith("layers."))


def bits_of(name: str, weights: Weights) -> Bits:
    """Bits of a matrix by its module's name, in packed weights."""
    return 4 if weights == "int4" and name != "output" else 8


def model_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; what is shared counts once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def held_bytes(model: Llama, weights: Weights) -> int:
    """What `model_bytes` of a model in full precision will be once it is packed; it may be on the meta device.

    Raises:
        ArrieroError: as `check_packable`.
    """
    check_packable(model, weights)
    held = model_bytes(model)
    if weights == "full":
        return held
    for name, layer in _matrices(model).items():
        bits, tied = bits_of(name, weights), name == "output" and model.config.tied_embeddings
        constants = 2 if bits == 4 else 1
        groups = -(-layer.out_features // ROWS) * ROWS * layer.in_features // GROUP
        plain = 0 if tied else layer.weight.numel() * layer.weight.element_size()
        held += groups * (bits * GROUP // 8 + 2 * constants) - plain
    return held


def _matrices(model: Llama) -> dict[str, nn.Linear | CodedLinear]:
    """The matrices that are packed, by their modules' names."""
    named = {name: module for name, module in model.named_modules() if is_packable(name, module)}
    return cast(dict[str, nn.Linear | CodedLinear], named)


def _chunk_rows(inputs: int) -> int:
    """Rows of whole tiles that are worked on at a time."""
    return max(1, CHUNK // (ROWS * inputs)) * ROWS


def _to_int4(rows: Tensor) -> dict[str, Tensor]:
    """Codes and constants of W (R, C), fp32."""
    groups = _groups(rows)  # (tiles, 16, G, 32)
    least, largest = groups.aminmax(dim=3)  # (tiles, 16, G)
    scales, mins = _halves((largest - least) / 15), _halves(least)
    codes = (groups - mins.float()[..., None]) / divisors(scales.float())[..., None]
    halves = codes.round_().clamp_(0, 15).to(torch.uint8).view(*scales.shape, 2, 4, 4)  # (tiles, 16, G, 2, 4, 4)
    packed = halves[:, :, :, 0] | (halves[:, :, :, 1] << 4)  # (tiles, 16, G, 4, 4)
    return {"codes": _tiled(packed), "scales": _tiled(scales), "mins": _tiled(mins)}


def _to_int8(rows: Tensor) -> dict[str, Tensor]:
    """Codes and scales of W (R, C), fp32."""
    groups = _groups(rows)  # (tiles, 16, G, 32)
    scales = _halves(groups.abs().amax(3) / 127)  # (tiles, 16, G)
    codes = (groups / divisors(scales.float())[..., None]).round_().clamp_(-127, 127).add_(128)
    return {"codes": _tiled(codes.to(torch.uint8).view(*scales.shape, 8, 4)), "scales": _tiled(scales)}


def _groups(rows: Tensor) -> Tensor:
    """Rows (R, C), filled up to whole tiles, as (tiles, 16, G, 32)."""
    return F.pad(rows, (0, 0, 0, -len(rows) % ROWS)).view(-1, ROWS, rows.shape[1] // GROUP, GROUP)


def _halves(constants: Tensor) -> Tensor:
    """Constants as they are stored, in fp16."""
    check_finite(constants)
    halves = constants.half()
    if not halves.isfinite().all():
        raise ArrieroError("a matrix with weights too large for fp16 cannot be packed: take --weights full")
    return halves


def _tiled(rowwise: Tensor) -> Tensor:
    """(tiles, 16, G, …, 4) or (tiles, 16, G), with rows inside the groups: (tiles, G, …, 16, 4) or (tiles, G, 16)."""
    order = (0, 2, 1) if rowwise.dim() == 3 else (0, 2, 3, 1, 4)
    return rowwise.permute(order).contiguous()
