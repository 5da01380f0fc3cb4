"""Hugging Face folders: `config.json` with `model.safetensors`, or shards and `model.safetensors.index.json`.

Our layout is theirs but for the names, so tensors are copied as they are. Tied embeddings are stored once.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from arriero.common.errors import ArrieroError, FormatError
from arriero.common.files import atomic_file
from arriero.model.config import LlamaConfig
from arriero.model.formats.hf_config import is_reward_model, read_hf_config, read_json, write_hf_config
from arriero.model.formats.weights import Weight, build_model, check_no_live_adapter, name_parameters
from arriero.model.heads import SCORE
from arriero.model.packed import Weights
from arriero.model.transformer import Llama

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_OUTER = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def load_hf(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    packed: Weights = "full",
) -> Llama:
    """Load a `LlamaForCausalLM` or `MistralForCausalLM` folder, its weights converted to `dtype`, its matrices packed.

    A `LlamaForSequenceClassification` of one label is a reward model: it comes with the head `score`.

    Raises:
        FormatError: an unsupported architecture, or a file or tensor that is missing, damaged or of a wrong shape.
    """
    file = folder / "config.json"
    values = read_json(file)
    config, heads = read_hf_config(values, file=file), [SCORE] if is_reward_model(values) else []
    files = _weight_files(folder)
    weights = _read(files, tied=config.tied_embeddings)
    source = folder / (SINGLE if (folder / SINGLE).is_file() else INDEX)
    names = hf_names(config) | {f"heads.{head}.weight": f"{head}.weight" for head in heads}
    return build_model(config, weights, names, source=source, dtype=dtype, device=device, heads=heads, packed=packed)


def save_hf(
    model: Llama,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5_000_000_000,
    bos_id: int | None = None,
    eos_id: int | None = None,
    pad_id: int | None = None,
    generation: Mapping[str, Any] | None = None,
) -> None:
    """Write config and weights, in `dtype` (by default the model's), as transformers and vLLM read them.

    Each file is whole or absent, and the one that makes the folder a model comes last. The tokenizer's ids go into
    `config.json` and, with what `generation` says over them, into `generation_config.json`; its own files are the
    tokenizer's to write. A model with the head `score` is written as a reward model, without its output layer.

    Raises:
        ArrieroError: the folder holds a model already, or an adapter is on that is not merged.
    """
    check_no_live_adapter(model)
    if any(folder.glob("model*.safetensors*")):
        raise ArrieroError(f"{folder} holds a model already: choose another folder")
    dtype = dtype or model.tok_embeddings.weight.dtype
    scalar = SCORE in model.heads
    config = write_hf_config(model.config, dtype=dtype, bos_id=bos_id, eos_id=eos_id, pad_id=pad_id, scalar=scalar)
    _write_json(folder / "config.json", config)
    _write_json(
        folder / "generation_config.json", {"bos_token_id": bos_id, "eos_token_id": eos_id, **(generation or {})}
    )

    parameters = dict(model.named_parameters())  # a tied output is not among them
    names = hf_names(model.config)
    if scalar:
        names = {ours: theirs for ours, theirs in names.items() if ours != "output.weight"}
        names[f"heads.{SCORE}.weight"] = f"{SCORE}.weight"
    tensors = {theirs: parameters[ours] for ours, theirs in names.items()}
    shards = _split(tensors, dtype.itemsize, max_shard_bytes)
    if len(shards) == 1:
        _write_shard(folder / SINGLE, tensors, dtype)
        return
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / file, {name: tensors[name] for name in shard}, dtype)
        where |= dict.fromkeys(shard, file)
    total = sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def hf_names(config: LlamaConfig) -> dict[str, str]:
    """Hugging Face's name of each of our parameters."""
    return name_parameters(config, outer=_OUTER, layer=_LAYER, prefix="model.layers.{}.")


def _weight_files(folder: Path) -> dict[Path, list[str]]:
    """The files to read, with the tensors that the index expects in each."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: []}
    if not (folder / INDEX).is_file():
        raise FormatError(f"{folder}: neither {SINGLE} nor {INDEX} is there: expected weights in safetensors format")
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise FormatError(f"{folder / INDEX}: key 'weight_map' is missing or empty")
    files: dict[Path, list[str]] = {}
    for tensor, name in where.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise FormatError(f"{folder / INDEX}: tensor '{tensor}': expected a file name of this folder, got {name!r}")
        files.setdefault(folder / name, []).append(tensor)
    for file, tensors in files.items():
        if not file.is_file():
            raise FormatError(f"{file}: shard is missing: the index expects tensor '{tensors[0]}' in it")
    return files


def _read(files: dict[Path, list[str]], *, tied: bool) -> Iterator[Weight]:
    for file, expected in files.items():
        try:
            with safe_open(file, framework="pt") as tensors:
                names = set(tensors.keys())
                for name in expected:
                    if name not in names:
                        raise FormatError(f"{file}: tensor '{name}' is missing: the index expects it here")
                for name in sorted(names):
                    if name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight"):
                        continue  # a constant that old versions stored; a second copy of the embedding
                    yield Weight(name, tensors.get_tensor(name), file)
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{file}: not a whole safetensors file{_first_lost(file)} ({error})") from error


def _first_lost(file: Path) -> str:
    """', tensor X is cut off', where the header of a truncated file can still tell."""
    try:
        with file.open("rb") as data:
            size = int.from_bytes(data.read(8), "little")
            header = json.loads(data.read(min(size, 100_000_000)))
        kept = file.stat().st_size - 8 - size
        ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        lost = min((end, name) for name, end in ends.items() if end > kept)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    return f": tensor '{lost[1]}' is cut off"


def _split(tensors: Mapping[str, Tensor], itemsize: int, max_bytes: int) -> list[list[str]]:
    """Names in order, in groups of at most `max_bytes`, a larger tensor alone."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * itemsize
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _write_shard(file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    values = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    with atomic_file(file) as aside:
        save_file(values, aside, metadata={"format": "pt"})


def _write_json(file: Path, values: dict[str, object]) -> None:
    with atomic_file(file) as aside:
        aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
