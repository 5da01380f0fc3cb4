"""PEFT's folders of adapters: `adapter_config.json` and `adapter_model.safetensors`.

The tensors are A (r, in) and B (out, r) by the base's Hugging Face names; the scale is not among them but follows from
the config's rank and α. PiSSA's adapters are written as plain ones of twice the rank, for the base as it was. The
file's metadata hold a sketch of the base, so that an adapter is not put on another one of the same shape.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from arriero.common.errors import ArrieroError, FormatError
from arriero.common.files import atomic_file
from arriero.model.adapters import Adapters
from arriero.model.choices import Quantisation
from arriero.model.coded import CodedLinear
from arriero.model.formats.hf_config import read_json
from arriero.model.formats.peft_config import read_config, shorten
from arriero.model.guests import Change
from arriero.model.heads import SCORE, ScalarHead, head_of
from arriero.model.lora import LowRank, LowRankEmbedding, Whole, WholeEmbedding, WholeLinear, weight_of
from arriero.model.lora_config import LoraConfig
from arriero.model.quantised import quantised_to
from arriero.model.sketch import compare_sketch, sketch
from arriero.model.transformer import Llama

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_ROOT = "base_model.model."
_LEAVES = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
    "base_layer.weight": "base",
    "weight": "whole",
}


def read_base(folder: Path) -> str | None:
    """The model that an adapter says it is for.

    Raises:
        FormatError: the config is missing or damaged.
    """
    base = read_json(folder / CONFIG).get("base_model_name_or_path")
    return base if isinstance(base, str) else None


def read_quantised(folder: Path) -> Quantisation:
    """What the base was quantised to when the adapter was trained.

    Raises:
        FormatError: the weights are missing or damaged.
    """
    kind = _read(folder / WEIGHTS)[1].get("base_quantised")
    return "nf4" if kind == "nf4" else "int8" if kind == "int8" else "none"


def fits(model: Llama, folder: Path) -> bool:
    """Whether a folder's adapter was made for these very weights, so that it may be one of several over them.

    Raises:
        FormatError: its weights are missing or damaged.
    """
    metadata = _read(folder / WEIGHTS)[1]
    same_bits = metadata.get("base_quantised", "none") == quantised_to(model)
    return same_bits and metadata.get("base_sketch") == json.dumps(sketch(model))


def save_peft(
    model: Llama, name: str, folder: Path, *, base: str, quantised: str = "none", head: str | None = None
) -> None:
    """Write one of the model's adapters into a folder, as `peft` and vLLM load it.

    Args:
        base: the model source that the adapter is for.
        quantised: to what the base was quantised while the adapter was trained.
        head: the model's scalar head that goes with the adapter, which so is a reward model's.

    Raises:
        ArrieroError: there is no such adapter, or one is merged into the weights, which are not the base's then.
    """
    adapters = Adapters.of(model)
    adapters.check_unmerged("save one")
    changes = {adapters.names[module][1]: change for module, change in adapters.changes(name).items()}
    tensors: dict[str, Tensor] = {}
    for module, change in changes.items():
        for leaf, tensor in _tensors_of(change).items():
            tensors[f"{_ROOT}{module}.{leaf}"] = tensor.detach().to("cpu", torch.float32).contiguous()
    config = _config_of(adapters, changes, adapters.configs[name], base)
    if head is not None:
        tensors[f"{_ROOT}{SCORE}.weight"] = head_of(model, head).weight.detach().to("cpu", torch.float32).contiguous()
        config |= {"task_type": "SEQ_CLS", "modules_to_save": [*(config["modules_to_save"] or ()), SCORE]}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / WEIGHTS) as aside:
        known = {"base_sketch": json.dumps(sketch(model)), "base_quantised": quantised}
        save_file(tensors, aside, metadata={"format": "pt", **known})
        _sort_metadata(aside)
    with atomic_file(folder / CONFIG) as aside:
        aside.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _sort_metadata(file: Path) -> None:
    """Put a file's metadata in order: safetensors writes it in another one each time, and equal adapters are equal."""
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size
        stream.seek(8)
        stream.write(text.ljust(size))


def load_peft(
    model: Llama, folder: Path, name: str, *, base: str = "this model", force: bool = False, head: str = SCORE
) -> None:
    """Read a folder's adapter into a model, by the name `name`; it is not switched on.

    Args:
        base: what to call the model in an error.
        force: take it although it was made for other weights of the same shape.
        head: the name that its scalar head gets in the model, if it is a reward model's.

    Raises:
        FormatError: a file is missing or damaged, or a tensor belongs to no module of the model.
        ArrieroError: the adapter is for another base, or has what is not supported; the message says what.
    """
    settings = read_json(folder / CONFIG)
    config = read_config(folder / CONFIG, settings)
    tensors, metadata = _read(folder / WEIGHTS)
    scores = tensors.pop(f"{_ROOT}{SCORE}.weight", None)  # (1, C)
    config = replace(config, whole=tuple(module for module in config.whole if module != SCORE))
    adapters = Adapters.of(model)
    theirs = {hf: ours for ours, (_, hf) in adapters.names.items()}
    own: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        found = re.fullmatch(rf"{re.escape(_ROOT)}(.+?)\.({'|'.join(map(re.escape, _LEAVES))})", key)
        module = theirs.get(found[1]) if found else None
        if found is None or module is None:
            unknown.append(key)
        else:
            own.setdefault(module, {})[_LEAVES[found[2]]] = tensor
    if unknown or not own:
        listed = ", ".join(map(shorten, unknown[:3])) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        raise FormatError(
            f"{folder / WEIGHTS}: {listed or 'no tensor at all'}: no module of {base} goes by that name; expected "
            f"{_ROOT}model.layers.0.self_attn.q_proj.lora_A.weight and the like"
        )
    told_base = shorten(str(settings.get("base_model_name_or_path") or "an unnamed model"))
    made_for = f"{folder} was made for {told_base}, and this is {base}"
    if not force and "base_sketch" in metadata:
        compare_sketch(model, metadata["base_sketch"], made_for)
    changes = {}
    for module, parts in own.items():
        host, names = model.get_submodule(module), adapters.names[module]
        if (copy := parts.pop("base", None)) is not None:
            _check_copy(copy, cast(Tensor, host.weight), names[1], made_for)
        if parts:
            changes[module] = _change(host, parts, config, names, made_for)
    if scores is not None:
        _check_shape(scores, (1, model.config.dim), SCORE, made_for)
    adapters.insert(name, config, changes)
    if scores is not None:
        model.heads[head] = ScalarHead(model.config.dim).to(model.tok_embeddings.weight.device).requires_grad_(False)
        head_of(model, head).weight.data.copy_(scores)


def _change(
    host: nn.Module, parts: Mapping[str, Tensor], config: LoraConfig, names: tuple[str, str], made_for: str
) -> Change:
    """One module's change out of its tensors."""
    module = names[1]
    embedding = isinstance(host, nn.Embedding)
    if not isinstance(host, (nn.Linear, nn.Embedding, CodedLinear)):
        raise FormatError(f"{made_for}: module {module} is a norm, which adapters do not change here")
    if "whole" in parts:
        if len(parts) > 1:
            raise FormatError(f"{made_for}: module {module} is changed by LoRA and trained whole at once")
        _check_shape(parts["whole"], tuple(host.weight.shape), module, made_for)
        return (WholeEmbedding if embedding else WholeLinear)(parts["whole"])
    if not {"a", "b"} <= parts.keys():
        raise FormatError(f"{made_for}: module {module} has only one of its two matrices")
    if embedding and "magnitude" in parts:
        raise FormatError(f"{made_for}: module {module}: an embedding with use_dora is not supported")
    if config.dora != ("magnitude" in parts) and not embedding:
        told = "has no" if config.dora else "has a"
        raise FormatError(f"{made_for}: module {module} {told} lora_magnitude_vector: use_dora says otherwise")
    outputs, inputs = weight_of(host).shape
    rank = parts["a"].shape[0] if parts["a"].dim() else 0
    if rank not in (config.rank, *config.rank_pattern.values()):  # peft sorts the patterns, of which the first counts
        rank = config.rank_of(names)
    _check_shape(parts["a"], (rank, inputs), module, made_for)
    _check_shape(parts["b"], (outputs, rank), module, made_for)
    kind = LowRankEmbedding if embedding else LowRank
    scale = config.alpha_of(names) / (math.sqrt(rank) if config.rslora else rank)
    change = kind(inputs, outputs, rank, scale, dropout=config.dropout)
    change.a.data, change.b.data = parts["a"].float(), parts["b"].float()
    if not (scale * change.b.data).isfinite().all():
        raise FormatError(f"{made_for}: module {module} times its scale {scale:.3g} is no finite number")
    if "magnitude" in parts:
        _check_shape(parts["magnitude"], (outputs,), module, made_for)
        change.magnitude = nn.Parameter(parts["magnitude"].float())
    return change


def _check_copy(copy: Tensor, weight: Tensor, module: str, made_for: str) -> None:
    """Whether the copy of the base's own matrix, which `peft` adds to an adapter of the embedding, is this base's."""
    bound = 0.02 * weight.float().abs().max()  # more than bf16's rounding
    if copy.shape != weight.shape or not ((copy.float() - weight.detach().cpu().float()).abs() <= bound).all():
        raise ArrieroError(f"{made_for}: the file's copy of {module} has other weights; give the adapter its own base")


def _check_shape(tensor: Tensor, shape: tuple[int, ...], module: str, made_for: str) -> None:
    if tuple(tensor.shape) != shape:
        raise ArrieroError(
            f"{made_for}: at module {module} expected a matrix of shape {shape}, got {tuple(tensor.shape)}"
        )
    if not tensor.is_floating_point():
        raise FormatError(f"{made_for}: module {module} holds {tensor.dtype}, expected floating point")
    if not tensor.float().isfinite().all():
        raise FormatError(f"{made_for}: module {module} holds numbers that are not finite")


def _tensors_of(change: Change) -> dict[str, Tensor]:
    if isinstance(change, Whole):
        return {"weight": change.weight}
    a, b = change.factors()
    if isinstance(change, LowRankEmbedding):
        return {"lora_embedding_A": a, "lora_embedding_B": b}
    tensors = {"lora_A.weight": a, "lora_B.weight": b}
    return tensors if change.magnitude is None else tensors | {"lora_magnitude_vector": change.magnitude}


def _config_of(adapters: Adapters, changes: Mapping[str, Change], config: LoraConfig, base: str) -> dict[str, Any]:
    """The config as `peft` writes it; ranks and α are those of the tensors."""
    low_rank = {module: change for module, change in changes.items() if isinstance(change, LowRank)}
    ranks = {module: len(change.factors()[0]) for module, change in low_rank.items()}
    alphas = {
        module: change.scale * (math.sqrt(ranks[module]) if config.rslora else ranks[module])
        for module, change in low_rank.items()
    }
    rank, alpha = _usual(ranks, config.rank), _usual(alphas, config.alpha)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "target_modules": _short(low_rank, adapters),
        "modules_to_save": _short({m: change for m, change in changes.items() if m not in low_rank}, adapters) or None,
        "rank_pattern": {module: value for module, value in ranks.items() if value != rank},
        "alpha_pattern": {module: value for module, value in alphas.items() if value != alpha},
        "use_rslora": config.rslora,
        "use_dora": any(change.magnitude is not None for change in low_rank.values()),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }


def _usual(values: Mapping[str, Any], otherwise: Any) -> Any:
    """The most frequent value; a whole number as an integer."""
    usual = Counter(values.values()).most_common(1)[0][0] if values else otherwise
    return int(usual) if usual == int(usual) else usual


def _short(modules: Mapping[str, Any], adapters: Adapters) -> list[str]:
    """Names for `target_modules`: the last part, where all modules of that name are meant, else the whole name."""
    every = Counter(hf.rpartition(".")[2] for _, hf in adapters.names.values())
    meant = Counter(module.rpartition(".")[2] for module in modules)
    return sorted(
        {last if meant[last] == every[last] else module for module in modules for last in [module.rpartition(".")[2]]}
    )


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not file.is_file():
        raise FormatError(f"{file} is missing: expected an adapter's weights in safetensors format")
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}, tensors.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{file}: not a whole safetensors file ({error})") from error
