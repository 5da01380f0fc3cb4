"""GGUF, llama.cpp's format, architecture `llama`: one file with the weights, the shape and the tokenizer.

Rows of Q and K are reordered on the way: llama.cpp (like Meta) rotates neighbouring dims of a head, this model (like
Hugging Face) the two halves. The whole list of tensors is checked against the file before any of them is converted.
"""

from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from arriero.common.errors import FormatError
from arriero.common.gguf_header import GgufHeader, GgufTensor, read_header
from arriero.model.config import LlamaConfig
from arriero.model.formats.gguf_config import ROPE_FREQS, read_config, scaling_of_divisors
from arriero.model.formats.gguf_storage import byte_shape, dequantise
from arriero.model.formats.weights import Weight, build_model, halves_from_pairs, name_parameters
from arriero.model.packed import Weights
from arriero.model.transformer import Llama

_OUTER = {
    "tok_embeddings.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "output.weight": "output.weight",
}
_LAYER = {
    "attention_norm": "attn_norm",
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}


def load_gguf(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    packed: Weights = "full",
) -> Llama:
    """Read a model of any storage type that the `gguf` package can dequantise.

    Raises:
        NotFoundError: there is no such file.
        FormatError: it is truncated, of another architecture, or lacks a tensor or key; the message names it.
    """
    return load_weights(read_header(path), dtype=dtype, device=device, packed=packed)


def load_weights(
    header: GgufHeader, *, dtype: torch.dtype, device: torch.device | str, packed: Weights = "full"
) -> Llama:
    """`load_gguf` for a file whose header was read already."""
    config = read_config(header)
    _check_extents(header)
    _check_sizes(header, config)
    with header.path.open("rb") as file:
        if ROPE_FREQS in header.tensors:
            config = _with_divisors(config, header, file)
        read_as = dtype if packed == "full" else torch.float32  # in which Q4_1 and Q8_0 are exact, to be packed again
        weights, names = _read_all(header, config, file, read_as), gguf_names(config)
        return build_model(config, weights, names, source=header.path, dtype=dtype, device=device, packed=packed)


def gguf_names(config: LlamaConfig) -> dict[str, str]:
    """GGUF's name of each of our parameters."""
    return name_parameters(config, outer=_OUTER, layer=_LAYER, prefix="blk.{}.")


def reordered_heads(name: str, config: LlamaConfig) -> int:
    """Heads of a tensor (by GGUF's name) whose rows are reordered; 0 for every tensor but Q and K."""
    if name.endswith(".attn_q.weight"):
        return config.n_heads
    return config.n_kv_heads if name.endswith(".attn_k.weight") else 0


def _check_extents(header: GgufHeader) -> None:
    size = header.path.stat().st_size
    for name, tensor in header.tensors.items():
        rows, row_bytes = _byte_shape(header, tensor)
        if tensor.start + rows * row_bytes > size:
            raise FormatError(f"{header.path}: truncated: it ends inside or before tensor '{name}'")


def _check_sizes(header: GgufHeader, config: LlamaConfig) -> None:
    """The sizes that metadata claims are those of tensors that are there: no absurd model is built on a claim."""
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    _find(header, "token_embd.weight", (config.vocab_size, config.dim))
    _find(header, "blk.0.attn_q.weight", (q, config.dim))
    _find(header, "blk.0.attn_k.weight", (kv, config.dim))
    _find(header, "blk.0.ffn_gate.weight", (config.hidden_dim, config.dim))
    if config.n_layers * len(_LAYER) > len(header.tensors):
        _find(header, f"blk.{config.n_layers - 1}.attn_norm.weight", (config.dim,))
        raise FormatError(f"{header.path}: it holds too few tensors for llama.block_count = {config.n_layers}")


def _find(header: GgufHeader, name: str, shape: tuple[int, ...]) -> GgufTensor:
    if (tensor := header.tensors.get(name)) is None:
        raise FormatError(f"{header.path}: tensor '{name}' is missing")
    if tensor.shape != shape:
        raise FormatError(f"{header.path}: tensor '{name}' has shape {tensor.shape}, expected {shape}")
    return tensor


def _with_divisors(config: LlamaConfig, header: GgufHeader, file: BufferedReader) -> LlamaConfig:
    tensor = _find(header, ROPE_FREQS, (config.head_dim // 2,))
    divisors = _read(header, tensor, file, torch.float32).numpy()
    try:
        scaling = scaling_of_divisors(config, divisors)
    except FormatError as error:
        raise FormatError(f"{header.path}: {error}") from error
    return replace(config, rope_scaling=scaling) if scaling else config


def _read_all(header: GgufHeader, config: LlamaConfig, file: BufferedReader, dtype: torch.dtype) -> Iterator[Weight]:
    for tensor in sorted(header.tensors.values(), key=lambda tensor: tensor.start):
        if tensor.name != ROPE_FREQS:
            heads = reordered_heads(tensor.name, config)
            yield Weight(tensor.name, _read(header, tensor, file, dtype, heads=heads), header.path)


def _read(
    header: GgufHeader, tensor: GgufTensor, file: BufferedReader, dtype: torch.dtype, *, heads: int = 0
) -> Tensor:
    """One tensor; the rows of Q and K are reordered while they are still packed."""
    stored = torch.empty(_byte_shape(header, tensor), dtype=torch.uint8)
    file.seek(tensor.start)
    if file.readinto(stored.numpy().data) != stored.numel():
        raise FormatError(f"{header.path}: truncated: it ends inside or before tensor '{tensor.name}'")
    if heads:
        stored = halves_from_pairs(stored, heads)
    try:
        return dequantise(stored, tensor.kind, tensor.shape, dtype)
    except (NotImplementedError, ValueError) as error:
        raise FormatError(f"{header.path}: tensor '{tensor.name}': {error}") from error


def _byte_shape(header: GgufHeader, tensor: GgufTensor) -> tuple[int, int]:
    try:
        return byte_shape(tensor.name, tensor.shape, tensor.kind)
    except FormatError as error:
        raise FormatError(f"{header.path}: {error}") from error
