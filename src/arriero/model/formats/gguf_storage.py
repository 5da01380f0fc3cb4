"""How GGUF stores numbers: bytes of one tensor ↔ fp32, through the `gguf` package's own quantisers."""

import math
from typing import Literal

import gguf
import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray
from torch import Tensor

from arriero.common.errors import FormatError

Kind = Literal["f32", "f16", "q8_0"]
"""What can be written."""

STORED_AS = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
}

_PIECE = 1 << 18
"""Numbers converted at a time: few enough to stay in the processor's cache, many enough that Python costs nothing."""


def byte_shape(name: str, shape: tuple[int, ...], kind: int) -> tuple[int, int]:
    """(rows, bytes of a row) of a stored tensor.

    Raises:
        FormatError: the storage type is unknown, or the row is no multiple of its block.
    """
    rows, columns = math.prod(shape[:-1]), shape[-1]
    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise FormatError(f"tensor '{name}' has the unknown storage type {kind}") from error
    if columns % block:
        raise FormatError(f"tensor '{name}' has rows of {columns}: expected a multiple of {block}")
    return rows, columns // block * size


def dequantise(stored: Tensor, kind: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The numbers of `stored` (rows, bytes of a row), as `dtype` and of `shape`, by way of fp32.

    Raises:
        NotImplementedError: `gguf` has no dequantiser for this storage type.
        ValueError: a number is not finite.
    """
    rows, columns = len(stored), shape[-1]
    numbers = torch.empty(rows, columns, dtype=dtype)
    step = max(1, _PIECE // columns)
    for first in range(0, rows, step):
        piece = stored[first : first + step].reshape(1, -1).numpy()  # one row: blocks do not know where a row ends
        values = torch.from_numpy(gguf.quants.dequantize(piece, GGMLQuantizationType(kind))).view(-1, columns)
        if not values.sum().isfinite():
            raise ValueError("holds NaN or infinity")
        numbers[first : first + step] = values
    return numbers.view(shape)


def quantise(numbers: Tensor, kind: Kind) -> NDArray[np.generic]:
    """Numbers (rows, columns) as they are stored: float32, float16, or bytes of Q8_0 blocks (rows, bytes of a row)."""
    rows, columns = len(numbers), numbers.shape[-1]
    step = max(1, _PIECE // columns)
    pieces = [
        gguf.quants.quantize(numbers[first : first + step].float().reshape(1, -1).numpy(), STORED_AS[kind])
        for first in range(0, rows, step)
    ]
    return np.concatenate(pieces, axis=1).reshape(rows, -1)
