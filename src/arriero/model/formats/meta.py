"""Meta's own release format: `params.json` with `consolidated.00.pth`, `consolidated.01.pth`, …

The `.pth` files are pickles: they are read with `weights_only=True`, which builds tensors and refuses to call anything
else. Several of them are tensor-parallel shards of one model, to be joined along the dimension that was split.
"""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError, FormatError
from arriero.model.config import LlamaConfig, RopeScaling, swiglu_width
from arriero.model.formats.hf_config import read_json
from arriero.model.formats.weights import Weight, build_model, halves_from_pairs
from arriero.model.packed import Weights
from arriero.model.transformer import Llama

_KNOWN = {
    "dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "vocab_size",
    "multiple_of",
    "ffn_dim_multiplier",
    "norm_eps",
    "rope_theta",
    "use_scaled_rope",
    "rope_scaling_factor",
    "high_freq_factor",
    "max_seq_len",
    "max_batch_size",
}

Shard = dict[str, Tensor]


def load_meta(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    max_seq_len: int | None = None,
    packed: Weights = "full",
) -> Llama:
    """Load a LLaMA, Llama 2 or Llama 3 folder as Meta published it.

    `params.json` does not say the context; without `max_seq_len` it is the one that its generation of models has.

    Raises:
        FormatError: an unknown parameter, or a file or tensor that is missing, damaged, hostile or of a wrong shape.
    """
    file = folder / "params.json"
    params = read_json(file)
    shards = {path: _open(path) for path in _shard_files(folder)}
    first = next(iter(shards.values()))
    config = read_meta_params(
        params, file=file, vocab_size=_vocab_size(first, params, len(shards)), max_seq_len=max_seq_len
    )
    names = {name: name for name in meta_names(config)}
    return build_model(config, _join(shards, config), names, source=folder, dtype=dtype, device=device, packed=packed)


def read_meta_params(
    params: dict[str, Any], *, file: Path, vocab_size: int, max_seq_len: int | None = None
) -> LlamaConfig:
    """Our config of a parsed `params.json`; `vocab_size` comes from the embedding, as LLaMA's file says −1.

    Raises:
        FormatError: a key is unknown or missing, or its value bad.
    """
    if unknown := sorted(set(params) - _KNOWN):
        raise FormatError(f"{file}: key '{unknown[0]}' is not supported")
    try:
        dim, heads, theta = params["dim"], params["n_heads"], params.get("rope_theta", 10000.0)
        scaling = None
        if params.get("use_scaled_rope"):
            scaling = RopeScaling(
                kind="llama3",
                factor=params.get("rope_scaling_factor") or 8.0,
                high_freq_factor=params.get("high_freq_factor") or 4.0,
                original_max_seq_len=8192,
            )
        return LlamaConfig.of(
            vocab_size=vocab_size,
            dim=dim,
            n_layers=params["n_layers"],
            n_heads=heads,
            n_kv_heads=params.get("n_kv_heads"),
            hidden_dim=swiglu_width(
                dim,
                multiple_of=params.get("multiple_of", 256),
                multiplier=params.get("ffn_dim_multiplier") or 1.0,
            ),
            norm_eps=params["norm_eps"],
            rope_theta=theta,
            rope_scaling=scaling,
            max_seq_len=max_seq_len or _context(params),
        )
    except KeyError as error:
        raise FormatError(f"{file}: key {error} is missing") from error
    except (TypeError, ZeroDivisionError, ArrieroError) as error:
        raise FormatError(f"{file}: {error}") from error


def meta_names(config: LlamaConfig) -> list[str]:
    """Names of a model's tensors: Meta's, and so ours."""
    with torch.device("meta"):
        return [name for name, _ in Llama(config).named_parameters()]


def _context(params: dict[str, Any]) -> int:
    if params.get("use_scaled_rope"):
        return 131072  # Llama 3.1 and later
    if params.get("rope_theta", 10000.0) > 10000.0:
        return 8192  # Llama 3
    return 2048 if params["norm_eps"] < 1e-5 else 4096  # LLaMA has ε 1e-6, Llama 2 has 1e-5


def _shard_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("consolidated.*.pth"))
    for number in range(max(len(files), 1)):
        expected = folder / f"consolidated.{number:02d}.pth"
        if expected not in files:
            raise FormatError(f"{expected}: shard is missing")
    return files


def _open(file: Path) -> Shard:
    try:
        values = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise FormatError(f"{file}: refused: it holds more than tensors, and loading it could run code") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(f"{file}: not a whole PyTorch file ({reason})") from error
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise FormatError(f"{file}: expected a dictionary of tensors")
    return values


def _vocab_size(shard: Shard, params: dict[str, Any], shards: int) -> int:
    if params.get("vocab_size", -1) > 0:
        return int(params["vocab_size"])
    if "output.weight" not in shard:
        raise FormatError("consolidated.00.pth: tensor 'output.weight' is missing")
    return shard["output.weight"].shape[0] * shards


def _join(shards: dict[Path, Shard], config: LlamaConfig) -> Iterator[Weight]:
    heads = {"attention.wq.weight": config.n_heads, "attention.wk.weight": config.n_kv_heads}
    first_file, first = next(iter(shards.items()))
    for file, shard in shards.items():
        if different := sorted(set(shard) ^ set(first)):
            raise FormatError(f"{file}: tensor '{different[0]}' is in only one of this and {first_file.name}")
    for name, part in first.items():
        if name == "rope.freqs":
            continue  # a constant
        dim = _split_dim(name, part, config)
        parts = [shard[name] for shard in shards.values()]
        try:
            whole = part if dim is None or len(parts) == 1 else torch.cat(parts, dim)
            for suffix, count in heads.items():
                if name.endswith(suffix):
                    whole = halves_from_pairs(whole, count)
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise FormatError(
                f"{first_file}: tensor '{name}': shards of shapes {shapes} do not fit together"
            ) from error
        yield Weight(name, whole, first_file)


def _split_dim(name: str, part: Tensor, config: LlamaConfig) -> int | None:
    """The dimension along which Meta's model parallelism splits a tensor, None for what every shard holds whole."""
    if name.endswith("norm.weight"):
        return None
    if name.endswith(("wo.weight", "w2.weight")):
        return 1  # RowParallelLinear
    if name == "tok_embeddings.weight":
        return 0 if part.shape[-1] == config.dim else 1  # by vocabulary in Llama 3, by width in LLaMA and Llama 2
    return 0  # ColumnParallelLinear
