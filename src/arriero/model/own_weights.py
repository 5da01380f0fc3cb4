"""How the matrices of a model are best held: as its own file holds them, where compiled code computes with that."""

from pathlib import Path

import torch

from arriero.common.device import DTypeName, pick_device, pick_dtype
from arriero.common.gguf_header import read_header
from arriero.kernels.native.build import why_not_native
from arriero.model.packed import Weights
from arriero.model.presets import PRESETS
from arriero.model.source import resolve

_FULL = {0, 1, 30}
"""ggml's numbers of f32, f16, bf16."""
_FOUR_BITS = {2, 3}
"""Of Q4_0 and Q4_1, whose groups of 32 are those of int4."""


def own_weights(
    source: str, adapter: Path | None = None, *, device: str = "auto", dtype: DTypeName = "auto"
) -> Weights:
    """int4 or int8 for a GGUF file of so many bits on a CPU: several times as fast there, and nothing lost; else full.

    Raises:
        NotFoundError, FormatError: as `load_model`.
    """
    if adapter is not None or source in PRESETS or pick_device(device).type != "cpu":
        return "full"
    path = resolve(source)
    if path.suffix != ".gguf" or pick_dtype(dtype, pick_device(device)) != torch.float32 or why_not_native():
        return "full"
    tensors = read_header(path).tensors
    kinds = {tensor.kind for name, tensor in tensors.items() if name.startswith("blk.") and len(tensor.shape) == 2}
    if kinds & _FULL:
        return "full"
    return "int4" if kinds <= _FOUR_BITS else "int8"
