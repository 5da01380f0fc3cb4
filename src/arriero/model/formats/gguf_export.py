"""Write a model and its tokenizer as one GGUF file for llama.cpp and what is built on it.

Matrices are stored as asked, RMSNorm weights in fp32, as llama.cpp expects them; a matrix whose rows do not divide into
Q8_0's blocks of 32 is stored as F16. A tied output layer is left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_file
from arriero.model.formats.gguf import gguf_names, reordered_heads
from arriero.model.formats.gguf_config import ROPE_FREQS, config_metadata, llama3_divisors
from arriero.model.formats.gguf_storage import STORED_AS, Kind, byte_shape, quantise
from arriero.model.formats.weights import check_no_live_adapter, pairs_from_halves
from arriero.model.transformer import Llama
from arriero.tokenizer.gguf import to_gguf
from arriero.tokenizer.tokenizer import Tokenizer

_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}
"""llama.cpp's `general.file_type`."""

_BLOCK = 32
"""Numbers of a Q8_0 block."""

_F16_MAX = 65504.0


def save_gguf(model: Llama, tokenizer: Tokenizer, path: Path, *, kind: Kind = "f16", name: str | None = None) -> None:
    """Write `path`, whole or not at all.

    Args:
        model: of any dtype, on any device.
        tokenizer: at most as many tokens as the embedding has rows; missing ones are filled up as unused.
        path: the file, usually `….gguf`; an earlier one is replaced.
        kind: how matrices are stored: `f32`, `f16`, or `q8_0` (8.5 bits a weight).
        name: `general.name`; by default the file's.

    Raises:
        ArrieroError: GGUF cannot express the model's rotary scaling or its tokenizer, or F16 its largest weight; or
            an adapter is on that is not merged.
    """
    check_no_live_adapter(model)
    if kind not in STORED_AS:
        raise ArrieroError(f"cannot write GGUF as '{kind}': expected {', '.join(STORED_AS)}")
    metadata: dict[str, Any] = {"general.type": "model", "general.name": name or path.stem}
    metadata |= {"general.file_type": _FILE_TYPES[kind]} | config_metadata(model.config)
    if kind == "q8_0":
        metadata["general.quantization_version"] = gguf.GGML_QUANT_VERSION
    metadata |= _padded(to_gguf(tokenizer), model.config.vocab_size)
    with atomic_file(path) as aside:
        writer = gguf.GGUFWriter(aside, "llama")
        try:
            for key, value in metadata.items():
                _add(writer, key, value)
            for tensor_name, tensor in _tensors(model):
                stored_as = _kind_of(tensor, kind)
                rows, row_bytes = byte_shape(tensor_name, tuple(tensor.shape), STORED_AS[stored_as])
                size = rows * row_bytes
                writer.add_tensor_info(tensor_name, tensor.shape, np.dtype("float32"), size, STORED_AS[stored_as])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor_name, tensor in _tensors(model):
                writer.write_tensor_data(_stored(tensor_name, tensor, _kind_of(tensor, kind), model))
        finally:
            writer.close()


def _tensors(model: Llama) -> Iterator[tuple[str, Tensor]]:
    """The file's tensors by its names, as the model holds them."""
    scaling = model.config.rope_scaling
    if scaling is not None and scaling.kind == "llama3":
        yield ROPE_FREQS, torch.from_numpy(llama3_divisors(model.config, scaling))
    parameters = dict(model.named_parameters())  # a tied output is not among them
    for ours, theirs in gguf_names(model.config).items():
        yield theirs, parameters[ours].detach()


def _kind_of(tensor: Tensor, kind: Kind) -> Kind:
    if tensor.dim() == 1:
        return "f32"
    return "f16" if kind == "q8_0" and tensor.shape[-1] % _BLOCK else kind


def _stored(name: str, tensor: Tensor, kind: Kind, model: Llama) -> NDArray[np.generic]:
    if heads := reordered_heads(name, model.config):
        tensor = pairs_from_halves(tensor, heads)
    numbers = tensor.to("cpu", torch.float32).reshape(-1, tensor.shape[-1])
    if not numbers.sum().isfinite():
        raise ArrieroError(f"tensor '{name}' holds NaN or infinity: the model is broken")
    if kind != "f32" and numbers.abs().max() > _F16_MAX:
        raise ArrieroError(f"tensor '{name}' holds values beyond {_F16_MAX:.0f}, which only f32 can store")
    return quantise(numbers, kind)


def _padded(metadata: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """The tokenizer's keys with as many tokens as the embedding has rows, which is what llama.cpp expects."""
    lists = {"tokens": "[PAD{}]", "token_type": int(gguf.TokenType.UNUSED), "scores": 0.0}
    for key, filler in lists.items():
        if (values := metadata.get(f"tokenizer.ggml.{key}")) is None:
            continue
        if len(values) > vocab_size:
            raise ArrieroError(f"the tokenizer has {len(values)} tokens, the model's embedding only {vocab_size} rows")
        rest = range(len(values), vocab_size)
        fill = [filler.format(row) if isinstance(filler, str) else filler for row in rest]
        metadata = metadata | {f"tokenizer.ggml.{key}": [*values, *fill]}
    return metadata


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
