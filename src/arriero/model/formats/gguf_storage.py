"""How GGUF stores numbers: bytes of one tensor ↔ fp32, through the `gguf` package's own quantisers."""

from typing import Literal

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from arriero.common.errors import FormatError
from arriero.common.gguf_header import GgufTensor

Kind = Literal["f32", "f16", "q8_0"]
"""What can be written."""

STORED_AS = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
}

_WIDE = 1 << 14
"""Bytes of a row below which rows are joined: `gguf` takes 16 rows at a time, and short ones cost it 4 × the time."""


def byte_shape(tensor: GgufTensor) -> tuple[int, int]:
    """(rows, bytes of a row) of a stored tensor.

    Raises:
        FormatError: the storage type is unknown, or the row is no multiple of its block.
    """
    rows, columns = int(np.prod(tensor.shape[:-1], dtype=object)), tensor.shape[-1]
    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
    except (ValueError, KeyError) as error:
        raise FormatError(f"tensor '{tensor.name}' has the unknown storage type {tensor.kind}") from error
    if columns % block:
        raise FormatError(f"tensor '{tensor.name}' has rows of {columns}: expected a multiple of {block}")
    return rows, columns // block * size


def dequantise(stored: NDArray[np.uint8], kind: int) -> NDArray[np.float32]:
    """Numbers (rows, columns) of stored bytes (rows, bytes of a row), in new memory.

    Raises:
        NotImplementedError: `gguf` has no dequantiser for this storage type.
    """
    values = gguf.quants.dequantize(_widen(stored), GGMLQuantizationType(kind))
    return np.array(values, dtype=np.float32, copy=None if values.flags.owndata else True).reshape(len(stored), -1)


def quantise(values: NDArray[np.float32], kind: Kind) -> NDArray[np.generic]:
    """Numbers (rows, columns) as they are stored: float32, float16, or bytes of Q8_0 blocks (rows, bytes of a row)."""
    stored = gguf.quants.quantize(_widen(values), STORED_AS[kind])
    return np.asarray(stored).reshape(len(values), -1)


def _widen(rows: NDArray[np.generic]) -> NDArray[np.generic]:
    """The same memory in fewer, longer rows: blocks never cross a row, so joined rows hold the same blocks."""
    joined = 1
    while len(rows) % (2 * joined) == 0 and rows[0].nbytes * joined < _WIDE:
        joined *= 2
    return rows.reshape(len(rows) // joined, -1)
