"""What a folder of encoder weights says about itself: pooling, prompts, lengths, and a fingerprint.

Three layouts are read. A sentence-transformers folder (`modules.json`) names its pooling, dense layers and
normalisation. A DPR folder (Karpukhin et al. 2020, arXiv 2004.04906) keeps its BERT under
`question_encoder.bert_model.*` or `ctx_encoder.bert_model.*`; its vector is the last layer's [CLS], not the pooler's.
Any other folder is taken as a plain BERT-like encoder whose vector is the last layer's first token.

The fingerprint covers what decides a vector (weights, architecture, tokenizer, pooling, lengths, prompts) and nothing
that does not (paths, library versions), so that a moved or renamed folder keeps it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from arriero.common.errors import FormatError, NotFoundError
from arriero.common.files import sha256

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_SILENT_CONFIG = (
    "_name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "_attn_implementation_autoset",
)
# Roles whose prompt serves a side, in the order sentence-transformers looks for them.
_QUERY_ROLES = ("query",)
_PASSAGE_ROLES = ("document", "passage", "corpus")

Kind = Literal["auto", "dpr"]
PASSAGES_NOTE = "arriero_passages.json"
"""In a query encoder's folder: whose passages it was trained for."""


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One side's encoder, as its folder describes it."""

    weights: Path = field(metadata={"silent": True})
    """Folder of the transformer's weights and tokenizer."""
    kind: Kind
    """How the weights are named: as transformers saves them, or as DPR does."""
    prefix: str = ""
    """What a DPR checkpoint puts before BERT's own names."""
    width: int
    """Hidden size of the transformer."""
    pooling: tuple[str, ...] = ("cls",)
    """How token vectors become one; several are concatenated."""
    pool_prompt: bool = True
    """Whether the prompt's tokens take part in the pooling."""
    dense: tuple[Path, ...] = field(default=(), metadata={"silent": True})
    """Folders of linear layers after the pooling."""
    normalise: bool = False
    """Whether the vector is scaled to length 1."""
    max_tokens: int
    """Longer texts are cut at their end, the special tokens included."""
    query_prompt: str = ""
    """What is put before a query."""
    passage_prompt: str = ""
    """What is put before a passage."""

    @property
    def dim(self) -> int:
        """Size of the vector."""
        if self.dense:
            return int(read_json(self.dense[-1] / "config.json")["out_features"])
        return self.width * len(self.pooling)


def read_tower(folder: Path) -> Tower:
    """Read what a folder says about its encoder; the weights stay unread.

    Raises:
        NotFoundError: there is no such folder.
        FormatError: the folder is no encoder, or asks for a module that is not supported.
    """
    if not folder.is_dir():
        raise NotFoundError(f"no encoder folder at {folder}: expected a folder with config.json and model.safetensors")
    if (folder / "modules.json").is_file():
        return _read_sentence_transformers(folder)
    config = _read_config(folder)
    if config.get("model_type") == "dpr":
        side = "ctx_encoder" if _is_context(config, folder) else "question_encoder"
        return Tower(
            weights=folder,
            kind="dpr",
            prefix=f"{side}.bert_model.",
            width=_width(config, folder),
            max_tokens=_max_tokens(folder, config, None),
        )
    return Tower(
        weights=folder, kind="auto", width=_width(config, folder), max_tokens=_max_tokens(folder, config, None)
    )


def read_passages_note(folder: Path) -> tuple[str, str]:
    """Fingerprint and name of the encoder whose passages a trained query encoder was trained for.

    Raises:
        FormatError: the folder bears no such note.
    """
    path = folder / PASSAGES_NOTE
    if not path.is_file():
        raise FormatError(
            f"{folder} is no trained query encoder: it lacks {PASSAGES_NOTE}, which says whose passages it finds"
        )
    note = read_json(path)
    if not isinstance(note, dict) or not all(isinstance(note.get(key), str) for key in ("fingerprint", "name")):
        raise FormatError(f"{path}: expected the texts 'fingerprint' and 'name'")
    return note["fingerprint"], note["name"]


def fingerprint(*towers: Tower) -> str:
    """Hexadecimal SHA-256 of everything that decides the vectors of these sides."""
    digest = hashlib.sha256()
    for tower in dict.fromkeys(towers):
        config = {key: value for key, value in _read_config(tower.weights).items() if key not in _SILENT_CONFIG}
        settings = {key: value for key, value in asdict(tower).items() if key not in ("weights", "dense")}
        digest.update(json.dumps([config, settings], sort_keys=True).encode())
        for path in [*weight_files(tower.weights), *_tokenizer_files(tower.weights)]:
            digest.update(f"{path.name} {sha256(path)}".encode())
        for dense in tower.dense:
            digest.update(json.dumps(read_json(dense / "config.json"), sort_keys=True).encode())
            digest.update("".join(sha256(path) for path in weight_files(dense)).encode())
    return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files of weights, safetensors where both forms lie there.

    Raises:
        FormatError: there are none, or only pickled ones of an unsafe kind.
    """
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        if found := sorted(folder.glob(pattern)):
            return found
    raise FormatError(f"{folder} has no weights: expected model.safetensors")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FormatError: it is absent or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing from the encoder's folder") from error
    except ValueError as error:
        raise FormatError(f"{path} is not JSON ({error})") from error


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise FormatError(f"{folder / 'config.json'} holds no object: expected a transformers configuration")
    return config


def _read_sentence_transformers(folder: Path) -> Tower:
    weights, max_tokens, dense = folder, None, []
    pooling: dict[str, Any] = {}
    normalise = False
    for module in read_json(folder / "modules.json"):
        name = str(module["type"]).rpartition(".")[2]
        place = folder / module["path"]
        if name == "Transformer":
            weights, max_tokens = place, _sentence_length(place)
        elif name == "Pooling":
            pooling = read_json(place / "config.json")
        elif name == "Dense":
            dense.append(place)
        elif name == "Normalize":
            normalise = True
        elif name != "Dropout":
            expected = "Transformer, Pooling, Dense, Normalize, Dropout"
            raise FormatError(f"{folder / 'modules.json'} asks for the module '{name}': supported are {expected}")
    config = _read_config(weights)
    prompts = _prompts(folder)
    return Tower(
        weights=weights,
        kind="auto",
        width=_width(config, weights),
        pooling=_pooling_modes(pooling, folder),
        pool_prompt=bool(pooling.get("include_prompt", True)),
        dense=tuple(dense),
        normalise=normalise,
        max_tokens=_max_tokens(weights, config, max_tokens),
        query_prompt=next((prompts[role] for role in _QUERY_ROLES if role in prompts), prompts.get("", "")),
        passage_prompt=next((prompts[role] for role in _PASSAGE_ROLES if role in prompts), prompts.get("", "")),
    )


def _prompts(folder: Path) -> dict[str, str]:
    """Prompt of each role; the default one, which serves a side that has none, under ''."""
    path = folder / "config_sentence_transformers.json"
    config = read_json(path) if path.is_file() else {}
    prompts = {str(role): str(prompt) for role, prompt in (config.get("prompts") or {}).items()}
    if (default := config.get("default_prompt_name")) is not None:
        if default not in prompts:
            raise FormatError(f"{path} names the default prompt '{default}', which its prompts lack")
        prompts[""] = prompts[default]
    return prompts


def _pooling_modes(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or [])
    modes = modes or [mode for key, mode in _LEGACY_POOLING.items() if config.get(key)] or ["mean"]
    if unknown := [mode for mode in modes if mode not in POOLINGS]:
        raise FormatError(f"{folder} asks for the pooling '{unknown[0]}': supported are {', '.join(POOLINGS)}")
    return tuple(modes)


def _sentence_length(folder: Path) -> int | None:
    path = folder / "sentence_bert_config.json"
    length = read_json(path).get("max_seq_length") if path.is_file() else None
    return None if length is None else int(length)


def _max_tokens(folder: Path, config: dict[str, Any], asked: int | None) -> int:
    """The least of what the folder asks for, what its tokenizer allows and what its positions hold."""
    positions = int(config.get("max_position_embeddings", 512))
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= 2  # their positions start after the padding's
    path = folder / "tokenizer_config.json"
    allowed = int(read_json(path).get("model_max_length", positions)) if path.is_file() else positions
    return min(positions, allowed, positions if asked is None else asked)


def _width(config: dict[str, Any], folder: Path) -> int:
    for key in ("hidden_size", "dim", "d_model"):
        if key in config:
            return int(config[key])
    raise FormatError(f"{folder / 'config.json'} gives no hidden size: expected a BERT-like encoder")


def _is_context(config: dict[str, Any], folder: Path) -> bool:
    """A DPR folder says by its architecture which side it is."""
    names = [str(name) for name in config.get("architectures") or []]
    if "DPRContextEncoder" in names:
        return True
    if "DPRQuestionEncoder" in names:
        return False
    raise FormatError(f"{folder / 'config.json'} names {names}: expected DPRContextEncoder or DPRQuestionEncoder")


def _tokenizer_files(folder: Path) -> list[Path]:
    found = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not found:
        raise FormatError(f"{folder} has no tokenizer: expected tokenizer.json or vocab.txt")
    return found[:1] if found[0].name == "tokenizer.json" else found
