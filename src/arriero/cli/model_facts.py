"""What a model's files say of it, read without its weights."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError, safe_open

from arriero.common.errors import ArrieroError, FormatError
from arriero.common.gguf_header import read_header
from arriero.generate.defaults import read_defaults
from arriero.model.config import LlamaConfig
from arriero.model.formats.gguf_config import read_config
from arriero.model.formats.hf_config import read_hf_config, read_json
from arriero.model.formats.weights import blank_model
from arriero.model.packed import Weights, held_bytes
from arriero.model.presets import PRESETS
from arriero.model.source import NAMED, resolve
from arriero.tokenizer.chat import BUILT_IN
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer

Facts = dict[str, Any]


def describe(source: str) -> Facts:
    """Architecture, size, context, stored type, tokenizer, chat template and licence; None where the files are silent.

    Raises:
        NotFoundError: the model is not here.
        FormatError: its files are no model, or are damaged.
    """
    if source in PRESETS:
        config = PRESETS[source]
        facts = _shape(config) | {"parameters": blank_model(config).n_params, "stored_as": None} | _memory(config)
        return {"model": source, "path": None} | facts | _spoken(None, config) | {"licence": None}
    path = resolve(source)
    files = sorted(path.glob("*.gguf")) if path.is_dir() else [path]
    if path.is_file() or (files and not (path / "config.json").is_file()):
        if len(files) > 1:
            raise ArrieroError(f"{path} holds {len(files)} .gguf files: name one, such as {files[0]}")
        facts = _of_gguf(files[0])
    elif (path / "config.json").is_file():
        facts = _of_folder(path)
    elif (path / "params.json").is_file():
        facts = {"architecture": "LLaMA, in Meta's own format"} | read_json(path / "params.json")
    else:
        raise FormatError(f"{path} is no model: expected a .gguf file, or a folder with config.json or params.json")
    if source in NAMED:
        facts["licence"] = NAMED[source].licence
    return {"model": source, "path": str(path)} | facts


def _of_gguf(file: Path) -> Facts:
    from gguf import GGMLQuantizationType

    header = read_header(file)
    config = read_config(header)
    kinds = Counter(GGMLQuantizationType(tensor.kind).name for tensor in header.tensors.values())
    parameters = sum(math.prod(t.shape) for name, t in header.tensors.items() if name != "rope_freqs.weight")
    facts = _shape(config) | {"parameters": parameters, "stored_as": _counted(kinds)} | _memory(config)
    return facts | _spoken(load_tokenizer(file), config) | {"licence": header.metadata.get("general.license")}


def _of_folder(folder: Path) -> Facts:
    values = read_json(folder / "config.json")
    tensors = list(_tensors(folder))
    size = {
        "parameters": sum(math.prod(shape) for _, _, shape in tensors) or None,
        "stored_as": _counted(Counter(dtype for _, dtype, _ in tensors)),
    }
    try:
        config = read_hf_config(values, file=folder / "config.json")
    except FormatError:
        if values.get("model_type") not in ("bert", "distilbert", "roberta", "mpnet", "xlm-roberta", "dpr"):
            raise
        shape = {
            "architecture": f"{(values.get('architectures') or ['?'])[0]} (an encoder, for `rag`)",
            "layers": values.get("num_hidden_layers"),
            "dim": values.get("hidden_size"),
            "vocabulary": values.get("vocab_size"),
            "context": values.get("max_position_embeddings"),
        }
        return shape | size | {"licence": _licence(folder)}
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    tokenizer = load_tokenizer(folder) if has_tokenizer else None
    facts = _shape(config) | size | _memory(config) | _spoken(tokenizer, config)
    return facts | {"sampling": read_defaults(folder) or None, "licence": _licence(folder)}


def _shape(config: LlamaConfig) -> Facts:
    heads = f"{config.n_heads} query, {config.n_kv_heads} key/value, width {config.head_dim}"
    scaling = config.rope_scaling
    return {
        "architecture": "LLaMA",
        "layers": config.n_layers,
        "dim": config.dim,
        "heads": heads,
        "hidden_dim": config.hidden_dim,
        "vocabulary": config.vocab_size,
        "tied_embeddings": config.tied_embeddings,
        "rope": f"base {config.rope_theta:g}" + (f", {scaling.kind} scaling × {scaling.factor:g}" if scaling else ""),
        "context": config.max_seq_len,
    }


def _memory(config: LlamaConfig) -> Facts:
    """Bytes that the weights take, and bits of each, by `--weights`; None where the shape does not allow it."""
    model = blank_model(config)
    held: dict[str, dict[str, float] | None] = {}
    for weights in get_args(Weights):
        try:
            size = held_bytes(model, weights)
        except ArrieroError:
            held[weights] = None
        else:
            held[weights] = {"bytes": size, "bits": round(8 * size / model.n_params, 2)}
    return {"weights": held}


def _spoken(tokenizer: Tokenizer | None, config: LlamaConfig) -> Facts:
    """What the tokenizer is, and the chat format."""
    if tokenizer is None:
        return {"tokenizer": None, "chat_template": None}
    kind = json.loads(tokenizer.backend.to_str())["model"]["type"]
    said = f"{kind}, {tokenizer.vocab_size:,} tokens"
    if tokenizer.vocab_size > config.vocab_size:
        said += f", more than the model's {config.vocab_size:,}"
    template = tokenizer.chat_template
    if template is None:
        return {"tokenizer": said, "chat_template": None}
    if "<|im_start|>" in template.source:
        form = "ChatML"
    else:
        form = next((name for name, source in BUILT_IN.items() if source == template.source), "its own")
    return {"tokenizer": said, "chat_template": form}


def _tensors(folder: Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype, shape) of each tensor of a folder's safetensors files."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - no mapping
                    part = tensors.get_slice(name)
                    yield name, part.get_dtype(), tuple(part.get_shape())
        except SafetensorError as error:
            raise FormatError(f"{file} is damaged: {error}") from error


def _counted(kinds: "Counter[str]") -> str | None:
    """'Q4_1 (211 tensors), F32 (61)'."""
    return ", ".join(f"{kind} ({count} tensors)" for kind, count in kinds.most_common()) or None


def _licence(folder: Path) -> str | None:
    """As the model card's head says it."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    head = re.match(r"---\n(.*?)\n---", card.read_text("utf-8", "replace"), re.DOTALL)
    found = re.search(r"^licen[cs]e:\s*(\S+)", head[1], re.MULTILINE) if head else None
    return found[1] if found else None
