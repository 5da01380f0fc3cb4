"""GGUF, llama.cpp's format, architecture `llama`: one file with the weights, the shape and the tokenizer.

Rows of Q and K are reordered on the way: llama.cpp (like Meta) rotates neighbouring dims of a head, this model (like
Hugging Face) the two halves. Tensors are converted one at a time: memory holds the model and one tensor in fp32.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from arriero.common.errors import FormatError
from arriero.common.gguf_header import GgufHeader, GgufTensor, read_header
from arriero.model.config import LlamaConfig
from arriero.model.formats.gguf_config import ROPE_FREQS, read_config, scaling_of_divisors
from arriero.model.formats.gguf_storage import byte_shape, dequantise
from arriero.model.transformer import Llama


@dataclass(frozen=True)
class Place:
    """Where one tensor of the file belongs in the model."""

    stored: str
    """Its name in the file."""
    name: str
    """The parameter's name."""
    shape: tuple[int, ...]
    """The parameter's shape."""
    heads: int = 0
    """Heads whose rows are reordered; 0 for every tensor but Q and K."""


def load_gguf(path: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Llama:
    """Read a model of any storage type that the `gguf` package can dequantise.

    Raises:
        NotFoundError: there is no such file.
        FormatError: it is truncated, of another architecture, or lacks a tensor or key; the message names it.
    """
    return load_weights(read_header(path), dtype=dtype, device=device)


def load_weights(header: GgufHeader, *, dtype: torch.dtype, device: torch.device | str) -> Llama:
    """`load_gguf` for a file whose header was read already."""
    config = read_config(header)
    with header.path.open("rb") as file:
        try:
            if ROPE_FREQS in header.tensors:
                config = _with_divisors(config, _checked(header, ROPE_FREQS, (config.head_dim // 2,)), file)
            wanted = _all_checked(header, config)
            state = {}
            for place in sorted(wanted, key=lambda place: header.tensors[place.stored].start):
                tensor = _read(header.tensors[place.stored], file, heads=place.heads)
                state[place.name] = tensor.to(device=device, dtype=dtype)
        except FormatError as error:
            raise FormatError(f"{header.path}: {error}") from error
    if config.tied_embeddings:
        state["output.weight"] = state["tok_embeddings.weight"]
    with torch.device("meta"):
        model = Llama(config)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model


def places(config: LlamaConfig) -> Iterator[Place]:
    """Every tensor of a model of this shape, in the order in which files hold them."""
    dim, hidden = config.dim, config.hidden_dim
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    yield Place("token_embd.weight", "tok_embeddings.weight", (config.vocab_size, dim))
    for layer in range(config.n_layers):
        stored, name = f"blk.{layer}", f"layers.{layer}"
        yield Place(f"{stored}.attn_norm.weight", f"{name}.attention_norm.weight", (dim,))
        yield Place(f"{stored}.attn_q.weight", f"{name}.attention.wq.weight", (q, dim), config.n_heads)
        yield Place(f"{stored}.attn_k.weight", f"{name}.attention.wk.weight", (kv, dim), config.n_kv_heads)
        yield Place(f"{stored}.attn_v.weight", f"{name}.attention.wv.weight", (kv, dim))
        yield Place(f"{stored}.attn_output.weight", f"{name}.attention.wo.weight", (dim, q))
        yield Place(f"{stored}.ffn_norm.weight", f"{name}.ffn_norm.weight", (dim,))
        yield Place(f"{stored}.ffn_gate.weight", f"{name}.feed_forward.w1.weight", (hidden, dim))
        yield Place(f"{stored}.ffn_down.weight", f"{name}.feed_forward.w2.weight", (dim, hidden))
        yield Place(f"{stored}.ffn_up.weight", f"{name}.feed_forward.w3.weight", (hidden, dim))
    yield Place("output_norm.weight", "norm.weight", (dim,))
    if not config.tied_embeddings:
        yield Place("output.weight", "output.weight", (config.vocab_size, dim))


def to_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows of Q or K (heads · D, C) from rotated halves to rotated neighbours."""
    return weight.view(heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)  # (heads · D, C)


def to_halves(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `to_pairs`."""
    return weight.view(heads, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)  # (heads · D, C)


def _all_checked(header: GgufHeader, config: LlamaConfig) -> list[Place]:
    """The places to fill, after a look at every tensor: none missing or without a place."""
    wanted = []
    for place in places(config):
        _checked(header, place.stored, place.shape)
        wanted.append(place)
    if strays := header.tensors.keys() - {place.stored for place in wanted} - {ROPE_FREQS}:
        raise FormatError(f"tensor '{min(strays)}' has no place in a LLaMA of this shape")
    return wanted


def _checked(header: GgufHeader, name: str, shape: tuple[int, ...]) -> GgufTensor:
    """The tensor of this name, which is there, of this shape, and whole."""
    if (tensor := header.tensors.get(name)) is None:
        raise FormatError(f"tensor '{name}' is missing")
    if tensor.shape != shape:
        raise FormatError(f"tensor '{name}' has shape {tensor.shape}: expected {shape}")
    rows, row_bytes = byte_shape(tensor)
    if tensor.start + rows * row_bytes > header.path.stat().st_size:
        raise FormatError(f"truncated: it ends inside or before tensor '{name}'")
    return tensor


def _with_divisors(config: LlamaConfig, tensor: GgufTensor, file: BufferedReader) -> LlamaConfig:
    scaling = scaling_of_divisors(config, _read(tensor, file).numpy())
    return replace(config, rope_scaling=scaling) if scaling else config


def _read(tensor: GgufTensor, file: BufferedReader, *, heads: int = 0) -> Tensor:
    """One tensor in fp32; the rows of Q and K are reordered while they are still packed."""
    stored = torch.empty(byte_shape(tensor), dtype=torch.uint8)
    file.seek(tensor.start)
    if file.readinto(stored.numpy().data) != stored.numel():
        raise FormatError(f"truncated: it ends inside or before tensor '{tensor.name}'")
    if heads:
        stored = to_halves(stored, heads)
    try:
        values = torch.from_numpy(dequantise(stored.numpy(), tensor.kind)).view(tensor.shape)
    except NotImplementedError as error:
        raise FormatError(f"tensor '{tensor.name}': {error}") from error
    if not torch.isfinite(values.sum()):
        raise FormatError(f"tensor '{tensor.name}' holds NaN or infinity: the file is corrupt")
    return values
