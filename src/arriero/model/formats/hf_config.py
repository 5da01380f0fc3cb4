"""`config.json` of a Hugging Face folder: the keys of `LlamaForCausalLM`, as transformers 4 and 5 write them.

Transformers 5 keeps all of rotary positions in `rope_parameters`; 4 had `rope_theta` and `rope_scaling`. We read either
and write all three. Whatever would make the model another one than ours is refused by name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from arriero.common.errors import ArrieroError, FormatError
from arriero.model.config import LlamaConfig, RopeScaling

LARGEST = 1 << 24
"""No size, in tokens, dims or layers, of a real model comes near it; a file that says more is damaged or hostile."""
MOST_LAYERS = 4096

REWARD_MODEL = "LlamaForSequenceClassification"
ARCHITECTURES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", REWARD_MODEL: "llama"}

# Keys that change the computation, with the values under which they do not.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu", "swish"),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
}

_REQUIRED = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
}


def read_hf_config(values: Mapping[str, Any], *, file: Path = Path("config.json")) -> LlamaConfig:
    """Our config of a parsed `config.json`; `file` is where it came from, for messages.

    Raises:
        FormatError: another architecture, an option that ours lacks, or a missing or bad value; names file and key.
    """
    _refuse_others(values, file)
    scalar = is_reward_model(values)
    if scalar and len(values.get("id2label") or (0, 1)) != 1:
        raise FormatError(f"{file}: id2label: a classifier of several labels is not supported: expected 1, a score")
    sizes = {ours: _number(values, theirs, file) for theirs, ours in _REQUIRED.items()}
    if sizes["n_layers"] > MOST_LAYERS:
        raise FormatError(f"{file}: num_hidden_layers {sizes['n_layers']} is more than the {MOST_LAYERS} supported")
    context = _number(values, "max_position_embeddings", file, default=2048)
    window = values.get("sliding_window")
    if window is not None and window < context:
        raise FormatError(f"{file}: sliding_window {window} is shorter than the context of {context}: not supported")
    theta, scaling = _read_rope(values, context, file)
    if scaling is not None and scaling.kind == "dynamic":
        context = int(context * scaling.factor)  # there, max_position_embeddings is the length before stretching
    try:
        return LlamaConfig.of(
            **sizes,
            n_kv_heads=_number(values, "num_key_value_heads", file, default=sizes["n_heads"]),
            head_dim=_number(values, "head_dim", file, default=sizes["dim"] // max(sizes["n_heads"], 1)),
            norm_eps=_number(values, "rms_norm_eps", file, default=1e-6, kind=float),
            rope_theta=theta,
            rope_scaling=scaling,
            max_seq_len=context,
            tied_embeddings=scalar or bool(values.get("tie_word_embeddings", False)),  # a reward model has no output
        )
    except FormatError:
        raise
    except ArrieroError as error:
        raise FormatError(f"{file}: {error}") from error


def is_reward_model(values: Mapping[str, Any]) -> bool:
    """Whether a parsed `config.json` is of a model with a scalar head instead of the output layer."""
    return REWARD_MODEL in (values.get("architectures") or ())


def write_hf_config(
    config: LlamaConfig,
    *,
    dtype: torch.dtype,
    bos_id: int | None = None,
    eos_id: int | None = None,
    pad_id: int | None = None,
    scalar: bool = False,
) -> dict[str, Any]:
    """The contents of a `config.json`, from which transformers 4 and 5 build the same model.

    Args:
        pad_id: what fills up shorter rows; a reward model is read at the last token that is not this.
        scalar: whether it is a reward model's.
    """
    scaling = config.rope_scaling
    dynamic = scaling is not None and scaling.kind == "dynamic"
    rope = _write_rope(config)
    name = str(dtype).removeprefix("torch.")
    labels: dict[str, Any] = {"id2label": {"0": "score"}, "label2id": {"score": 0}} if scalar else {}
    return {
        "architectures": [REWARD_MODEL if scalar else "LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": scaling.original_max_seq_len if scaling and dynamic else config.max_seq_len,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else {key: rope[key] for key in rope if key != "rope_theta"},
        "rope_parameters": rope,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        **labels,
        "dtype": name,
        "torch_dtype": name,
    }


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FormatError: the file is missing, not JSON, or holds something else than an object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise FormatError(f"{file}: expected a JSON object, got {type(values).__name__}")
    return values


def _refuse_others(values: Mapping[str, Any], file: Path) -> None:
    names = values.get("architectures") or []
    kind = values.get("model_type")
    if not isinstance(names, list):
        raise FormatError(f"{file}: architectures: expected a list, got {names!r}")
    if names and not any(name in ARCHITECTURES for name in names):
        raise FormatError(f"{file}: architectures {names} is not supported: expected {' or '.join(ARCHITECTURES)}")
    if not names and kind not in ARCHITECTURES.values():
        raise FormatError(f"{file}: model_type {kind!r} is not supported: expected llama or mistral")
    for key, neutral in _NEUTRAL.items():
        if key in values and values[key] not in neutral:
            raise FormatError(f"{file}: {key} {values[key]!r} is not supported: expected {neutral[0]!r}")


def _read_rope(values: Mapping[str, Any], context: int, file: Path) -> tuple[float, RopeScaling | None]:
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise FormatError(f"{file}: rope_parameters: expected an object, got {type(rope).__name__}")
    both = {"rope_theta": values.get("rope_theta"), **(values.get("rope_parameters") or {}), **rope}
    theta = _number(both, "rope_theta", file, default=10000.0, kind=float)
    kind = both.get("rope_type", both.get("type", "default"))
    if both.get("partial_rotary_factor") not in (None, 1):
        raise FormatError(f"{file}: partial_rotary_factor {both['partial_rotary_factor']} is not supported: expected 1")
    if kind == "default":
        return theta, None
    if kind not in ("linear", "dynamic", "llama3"):
        raise FormatError(f"{file}: rope_type '{kind}' is not supported: expected default, linear, dynamic or llama3")
    original = context  # transformers' dynamic looks at max_position_embeddings alone
    if kind == "llama3":
        original = _number(both, "original_max_position_embeddings", file, default=context)
    factors = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    try:
        return theta, RopeScaling(
            kind=kind,
            factor=_number(both, "factor", file, kind=float),
            original_max_seq_len=original,
            **{key: _number(both, key, file, default=value, kind=float) for key, value in factors.items()},
        )
    except FormatError:
        raise
    except ArrieroError as error:
        raise FormatError(f"{file}: {error}") from error


def _write_rope(config: LlamaConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta}
    rope = {"rope_type": scaling.kind, "rope_theta": config.rope_theta, "factor": scaling.factor}
    if scaling.kind == "llama3":
        rope |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        }
    return rope


def _number(values: Mapping[str, Any], key: str, file: Path, *, default: Any = None, kind: type = int) -> Any:
    value = values.get(key)
    value = default if value is None else value
    if value is None:
        raise FormatError(f"{file}: key '{key}' is missing")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < (LARGEST if kind is int else 1e15) or (kind is int and value != int(value)):
        expected = f"a whole number from 1 to {LARGEST}" if kind is int else "a finite number above 0"
        raise FormatError(f"{file}: key '{key}': expected {expected}, got {str(value)[:40]}")
    return kind(value)
