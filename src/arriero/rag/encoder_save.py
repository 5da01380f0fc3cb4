"""Encoders written back in the form they came in: a DPR folder as DPR's, any other as sentence-transformers'.

What is written holds no path but its own parts', so it may be moved; it appears whole or not at all.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from arriero.common.errors import require
from arriero.model.staging import staged
from arriero.rag.encoder import Encoder
from arriero.rag.encoder_folder import PASSAGES_NOTE, read_json
from arriero.rag.quiet import quiet
from arriero.rag.tower import TowerModel

_MODULES = "sentence_transformers.models."


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Write both sides: one tower as one folder, two as DPR's pair `question_encoder/` and `ctx_encoder/`."""
    if encoder.query is encoder.passage:
        with staged(folder) as aside:
            _save_tower(encoder.query, aside)
        return
    with staged(folder) as aside:
        _save_tower(encoder.query, aside / "question_encoder")
        _save_tower(encoder.passage, aside / "ctx_encoder")


def save_query_encoder(encoder: Encoder, folder: Path) -> None:
    """Write the query side alone, with a note of whose passages it finds; `load_query_encoder` reads it."""
    with staged(folder) as aside:
        _save_tower(encoder.query, aside)
        note = {"fingerprint": encoder.fingerprint, "name": encoder.name}
        _write_json(aside / PASSAGES_NOTE, note)


def _save_tower(model: TowerModel, folder: Path) -> None:
    transformers = require("transformers", extra="rag", purpose="writing encoders")
    folder.mkdir(parents=True, exist_ok=True)
    with quiet(transformers):
        model.tokenizer.save_pretrained(str(folder))
        if model.tower.kind == "dpr":
            _save_dpr(model, folder)
            return
        model.network.transformer.save_pretrained(str(folder))
    _save_modules(model, folder)


def _save_dpr(model: TowerModel, folder: Path) -> None:
    """Under DPR's names, with the config that was there."""
    tower = model.tower
    tensors = {f"{tower.prefix}{name}": tensor for name, tensor in model.network.transformer.state_dict().items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    config = {key: value for key, value in read_json(tower.weights / "config.json").items() if key != "_name_or_path"}
    _write_json(folder / "config.json", config)


def _save_modules(model: TowerModel, folder: Path) -> None:
    """sentence-transformers' list of modules, and their settings."""
    tower = model.tower
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    pooling = {f"pooling_mode_{key}": name in tower.pooling for key, name in _POOLING_KEYS.items()}
    place = {"word_embedding_dimension": tower.width, "include_prompt": tower.pool_prompt}
    _write_json(folder / "1_Pooling" / "config.json", place | pooling)
    for number, (source, layer) in enumerate(zip(tower.dense, model.network.dense, strict=True), start=2):
        modules.append((f"{number}_Dense", "Dense"))
        _save_dense(read_json(source / "config.json"), layer, folder / f"{number}_Dense")
    if tower.normalise:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
        (folder / modules[-1][0]).mkdir()
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}{kind}"}
        for number, (path, kind) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", listed)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": tower.max_tokens, "do_lower_case": False})
    prompts = {"query": tower.query_prompt, "passage": tower.passage_prompt}
    own = {role: prompt for role, prompt in prompts.items() if prompt}
    _write_json(folder / "config_sentence_transformers.json", {"prompts": own, "default_prompt_name": None})


_POOLING_KEYS = {
    "cls_token": "cls",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean_tokens": "weightedmean",
    "lasttoken": "lasttoken",
}


def _save_dense(config: dict[str, Any], layer: nn.Module, folder: Path) -> None:
    folder.mkdir()
    _write_json(folder / "config.json", config)
    tensors = {f"linear.{name.partition('.')[2]}": tensor for name, tensor in layer.state_dict().items()}
    save_file({name: tensor.detach().cpu() for name, tensor in tensors.items()}, folder / "model.safetensors")


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
