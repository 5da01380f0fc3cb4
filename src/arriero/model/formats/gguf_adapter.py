"""LoRA adapters as GGUF files, which llama.cpp puts on a base at run time (`--lora`), architecture `llama`.

Each matrix W (out, in) that changes has two tensors named after it, `….lora_a` (r, in) and `….lora_b` (out, r); what is
added is (α/r) B A. Rows of Q and K are in llama.cpp's order (see `gguf.py`), and so those of their B; A's never are.
The embedding's A is stored transposed, (vocabulary, r), for llama.cpp looks up its rows by token (its
`convert_lora_to_gguf.py` and `llm_graph_context::build_inp_embd`). Where output and embedding are tied, llama.cpp knows
both by one name and would multiply the output by that transposed A: such adapters are refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arriero.common.errors import ArrieroError, FormatError, did_you_mean
from arriero.common.files import atomic_file
from arriero.common.gguf_header import GgufHeader, GgufTensor, read_header
from arriero.model.config import LlamaConfig
from arriero.model.formats.gguf import gguf_names, reordered_heads
from arriero.model.formats.gguf_storage import byte_shape, dequantise
from arriero.model.formats.weights import blank_model, halves_from_pairs, pairs_from_halves

Pair = tuple[Tensor, Tensor]
"""A (r, in) and B (out, r) of one matrix; an embedding's `in` is the vocabulary, its `out` the model's width."""

_DTYPES = {"f32": torch.float32, "f16": torch.float16}
_FILE_TYPES = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}
_TYPE = gguf.Keys.Adapter.TYPE
_ALPHA = gguf.Keys.Adapter.LORA_ALPHA
_INVOCATION = gguf.Keys.Adapter.ALORA_INVOCATION_TOKENS
_EMBEDDING = "tok_embeddings"
_EXPECTED = {"general.type": "adapter", "general.architecture": "llama", _TYPE: "lora"}


def save_adapter_gguf(
    pairs: Mapping[str, Pair],
    path: Path,
    *,
    alpha: float,
    config: LlamaConfig,
    name: str,
    kind: Literal["f32", "f16"] = "f32",
) -> None:
    """Write `path`, whole or not at all.

    Args:
        pairs: by our module names (`layers.0.attention.wq`, `output`, …); of any floating dtype, on any device.
        path: the file, usually `….gguf`; an earlier one is replaced.
        alpha: α; each pair's product is scaled by α over its own rank.
        config: the base's shape.
        name: `general.name`.
        kind: how the numbers are stored.

    Raises:
        ArrieroError: there is no such module in the base, a shape is wrong, α is not above 0, or a number cannot be
            stored; the message names the module.
    """
    if kind not in _DTYPES:
        raise ArrieroError(f"cannot write an adapter as '{kind}': expected {' or '.join(_DTYPES)}")
    if not _is_alpha(alpha):
        raise ArrieroError(f"alpha: expected a number above 0 that float32 can hold, got {alpha}")
    if not pairs:
        raise ArrieroError("an adapter without any matrices cannot be written: expected at least one pair A, B")
    matrices = _matrices(config)
    tensors: dict[str, NDArray[np.generic]] = {}
    for module, pair in pairs.items():
        if (matrix := matrices.get(module)) is None:
            raise ArrieroError(_unknown(module, matrices, config))
        a, b = matrix.stored(*_checked(module, pair, matrix, kind))
        tensors[f"{matrix.name}.lora_a"], tensors[f"{matrix.name}.lora_b"] = a.numpy(), b.numpy()
    with atomic_file(path) as aside:
        writer = gguf.GGUFWriter(aside, "llama")
        try:
            writer.add_type(gguf.GGUFType.ADAPTER)
            writer.add_name(name)
            writer.add_file_type(_FILE_TYPES[kind])
            writer.add_string(_TYPE, "lora")
            writer.add_float32(_ALPHA, alpha)
            for tensor_name, numbers in tensors.items():
                writer.add_tensor(tensor_name, numbers)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def read_adapter_gguf(path: Path, config: LlamaConfig) -> tuple[dict[str, Pair], float]:
    """The pairs, by our module names and in fp32, and α.

    Args:
        path: of any storage type that the `gguf` package can dequantise.
        config: the base's shape.

    Raises:
        NotFoundError: there is no such file.
        FormatError: it is truncated, is no LoRA adapter of the architecture `llama`, or does not fit the base; the
            message names the key or tensor.
    """
    header = read_header(path)
    alpha = _read_alpha(header)
    matrices = _matrices(config)
    found = _find_pairs(header, matrices, config)
    pairs = {}
    with path.open("rb") as file:
        for module, (a, b) in found.items():
            pairs[module] = matrices[module].ours(_read(header, a, file), _read(header, b, file))
    return pairs, alpha


@dataclass(frozen=True)
class _Matrix:
    """A matrix of the base that an adapter can change."""

    name: str
    """GGUF's, of its weight."""
    outputs: int
    """Rows of B."""
    inputs: int
    """Columns of A."""
    heads: int
    """Heads whose rows are reordered; 0 for all but Q and K."""
    embedding: bool
    """A is stored transposed."""

    def stored(self, a: Tensor, b: Tensor) -> Pair:
        """Our A and B as the file has them."""
        b = pairs_from_halves(b, self.heads) if self.heads else b  # (out, r)
        return (a.T if self.embedding else a).contiguous(), b.contiguous()

    def ours(self, a: Tensor, b: Tensor) -> Pair:
        """The file's A and B as we have them."""
        b = halves_from_pairs(b, self.heads) if self.heads else b  # (out, r)
        return (a.T if self.embedding else a).contiguous(), b.contiguous()


def _matrices(config: LlamaConfig) -> dict[str, _Matrix]:
    """By our module names, in the order of the model; none of a tied embedding and output."""
    shapes = {name: tuple(parameter.shape) for name, parameter in blank_model(config).named_parameters()}
    matrices = {}
    for ours, theirs in gguf_names(config).items():
        module, embedding = ours.removesuffix(".weight"), ours == f"{_EMBEDDING}.weight"
        if len(shapes[ours]) == 2 and not (embedding and config.tied_embeddings):
            outputs, inputs = reversed(shapes[ours]) if embedding else shapes[ours]
            matrices[module] = _Matrix(theirs, outputs, inputs, reordered_heads(theirs, config), embedding)
    return matrices


def _unknown(module: str, matrices: Mapping[str, _Matrix], config: LlamaConfig) -> str:
    if config.tied_embeddings and module in (_EMBEDDING, "output"):
        return (
            f"{module}: llama.cpp has no adapters for an embedding and output that are tied: merge the adapter into "
            "the model and export that"
        )
    return f"{module}: no matrix of the model goes by that name{did_you_mean(module, matrices)}"


def _checked(module: str, pair: Pair, matrix: _Matrix, kind: str) -> Pair:
    """A and B on the CPU, as they are stored."""
    a, b = (tensor.detach().to("cpu", torch.float32) for tensor in pair)
    rank = len(a) if a.dim() else 0
    if rank < 1 or a.shape != (rank, matrix.inputs) or b.shape != (matrix.outputs, rank):
        raise ArrieroError(
            f"{module}: A has shape {tuple(a.shape)} and B {tuple(b.shape)}: expected (r, {matrix.inputs}) and "
            f"({matrix.outputs}, r) with a rank r of at least 1"
        )
    for letter, numbers in {"A": a, "B": b}.items():
        if not numbers.isfinite().all():
            raise ArrieroError(f"{module}: {letter} holds NaN or infinity: the adapter is broken")
        if not numbers.to(_DTYPES[kind]).isfinite().all():
            raise ArrieroError(f"{module}: {letter} holds values beyond 65504, which only f32 can store")
    return a.to(_DTYPES[kind]), b.to(_DTYPES[kind])


def _is_alpha(alpha: float) -> bool:
    """Whether α is stored as a number above 0: llama.cpp takes 0 for "no scale", and multiplies by 1."""
    limits = torch.finfo(torch.float32)
    return limits.tiny <= alpha <= limits.max


def _read_alpha(header: GgufHeader) -> float:
    for key, expected in _EXPECTED.items():
        if (value := header.metadata.get(key)) != expected:
            raise FormatError(f"{header.path}: {key} = {repr(value)[:40]}: expected '{expected}' of a LoRA adapter")
    if _INVOCATION in header.metadata:
        raise FormatError(f"{header.path}: {_INVOCATION} is not supported: expected an adapter that is always on")
    alpha = header.metadata.get(_ALPHA)
    if not isinstance(alpha, float) or not _is_alpha(alpha):
        raise FormatError(f"{header.path}: {_ALPHA} = {repr(alpha)[:40]}: expected a number above 0")
    return float(str(np.float32(alpha)))  # of the numbers that fp32 cannot tell apart, the shortest: 0.1


def _find_pairs(
    header: GgufHeader, matrices: Mapping[str, _Matrix], config: LlamaConfig
) -> dict[str, tuple[GgufTensor, GgufTensor]]:
    """The file's two tensors of each module that it changes, both of the right shape."""
    modules = {matrix.name: module for module, matrix in matrices.items()}
    own: dict[str, dict[str, GgufTensor]] = {}
    for name, tensor in header.tensors.items():
        base, _, leaf = name.rpartition(".")
        if base not in modules or leaf not in ("lora_a", "lora_b"):
            raise FormatError(f"{header.path}: tensor {name!r}: {_misplaced(base, leaf, modules, config)}")
        own.setdefault(modules[base], {})[leaf] = tensor
    if not own:
        raise FormatError(f"{header.path}: it holds no tensors: expected blk.0.attn_q.weight.lora_a and the like")
    found = {}
    for module, parts in own.items():
        if len(parts) == 1:
            only = next(iter(parts.values())).name
            raise FormatError(f"{header.path}: tensor '{only}' stands alone: expected a pair of lora_a and lora_b")
        found[module] = _check_shapes(header, matrices[module], parts["lora_a"], parts["lora_b"])
    return found


def _misplaced(base: str, leaf: str, modules: Mapping[str, str], config: LlamaConfig) -> str:
    if leaf not in ("lora_a", "lora_b"):
        return "expected a name that ends in .lora_a or .lora_b"
    if config.tied_embeddings and base in ("token_embd.weight", "output.weight"):
        return "llama.cpp has no adapters for an embedding and output that are tied, as this model's are"
    return f"this model has no matrix {base!r}{did_you_mean(base, modules)}"


def _check_shapes(header: GgufHeader, matrix: _Matrix, a: GgufTensor, b: GgufTensor) -> tuple[GgufTensor, GgufTensor]:
    rank = _shape(b)[-1]
    if rank < 1:
        raise FormatError(f"{header.path}: tensor '{b.name}' has the rank 0: expected at least 1")
    shape_a = (matrix.inputs, rank) if matrix.embedding else (rank, matrix.inputs)
    for tensor, shape in ((a, shape_a), (b, (matrix.outputs, rank))):
        if _shape(tensor) != shape:
            raise FormatError(f"{header.path}: tensor '{tensor.name}' has shape {tensor.shape}, expected {shape}")
    return a, b


def _shape(tensor: GgufTensor) -> tuple[int, ...]:
    """With two dimensions: of a single row only one may be left, since ggml's own writer drops what is 1."""
    return (1, *tensor.shape) if len(tensor.shape) == 1 else tensor.shape


def _read(header: GgufHeader, tensor: GgufTensor, file: BufferedReader) -> Tensor:
    shape = _shape(tensor)
    try:
        rows, row_bytes = byte_shape(tensor.name, shape, tensor.kind)
    except FormatError as error:
        raise FormatError(f"{header.path}: {error}") from error
    truncated = FormatError(f"{header.path}: truncated: it ends inside or before tensor '{tensor.name}'")
    if tensor.start + rows * row_bytes > header.path.stat().st_size:  # before any memory is asked for
        raise truncated
    stored = torch.empty(rows, row_bytes, dtype=torch.uint8)
    file.seek(tensor.start)
    if file.readinto(stored.numpy().data) != math.prod(stored.shape):
        raise truncated
    try:
        return dequantise(stored, tensor.kind, shape, torch.float32)
    except (NotImplementedError, ValueError) as error:
        raise FormatError(f"{header.path}: tensor '{tensor.name}': {error}") from error
