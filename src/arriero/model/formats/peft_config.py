"""The settings in PEFT's `adapter_config.json`, which may come from anywhere: each is held to its type and bounds.

Patterns of modules are regular expressions in these files. One with nested repeats takes longer than anybody waits
to miss a name, so what repeats is limited to what people write, such as `.*layers.0.*(q|v)_proj`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from arriero.common.errors import ArrieroError, FormatError
from arriero.model.lora_config import LoraConfig

_MOST_ENTRIES = 10_000
_MOST_EXPRESSIONS = 16
"""Patterns that are more than a module's name."""
_MOST_CHOICES = 3
"""Repeats and groups in a pattern: each multiplies the ways to match a name by up to its length."""
_LONGEST_PATTERN = 200
_SHOWN = 80
_REFUSED = {
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None, []),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "kasa_config": (None,),
    "ensure_weight_tying": (False, None),
}
"""Settings that give the tensors another meaning, and the values without which they do not."""


def read_config(file: Path, settings: Mapping[str, Any]) -> LoraConfig:
    """The settings of an adapter.

    Args:
        file: where they were read, for errors.
        settings: the file's object.

    Raises:
        FormatError: one has a wrong type or value, or means what is not supported.
    """
    if settings.get("peft_type") != "LORA":
        raise FormatError(f"{file}: expected peft_type LORA, got {brief(settings.get('peft_type'))}")
    for key, plain in _REFUSED.items():
        if settings.get(key) not in (*plain, plain[0]):
            raise FormatError(f"{file}: {key} = {brief(settings[key])} is not supported: expected {plain[0]!r}")
    start = settings.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(("pissa", "olora", "corda", "loftq", "lora_ga")):
        raise FormatError(
            f"{file}: init_lora_weights = {brief(start)} means a base with other weights: save it with peft's "
            "path_initial_model_for_weight_conversion"
        )

    def read(key: str, default: Any, kind: Callable[[Any], Any]) -> Any:
        value = settings.get(key)
        try:
            return default if value is None else kind(value)
        except ValueError as error:
            raise ArrieroError(f"{key}: {error}") from error

    try:
        return LoraConfig(
            rank=read("r", 8, _whole),
            alpha=read("lora_alpha", 8.0, _number),
            targets=read("target_modules", (), _names),
            rank_pattern=read("rank_pattern", {}, lambda table: _patterns(table, _whole)),
            alpha_pattern=read("alpha_pattern", {}, lambda table: _patterns(table, _number)),
            dropout=read("lora_dropout", 0.0, _number),
            rslora=read("use_rslora", False, _flag),
            dora=read("use_dora", False, _flag),
            whole=read("modules_to_save", (), _names),
        )
    except ArrieroError as error:
        raise FormatError(f"{file}: {error}") from error


def brief(value: object) -> str:
    """A value of a file as Python writes it, cut to what an error has room for."""
    return shorten(repr(value))


def shorten(text: str) -> str:
    """A name of a file, cut to what an error has room for."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected a number, got {brief(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("expected a number of a usual size") from error


def _whole(value: object) -> int:
    if not (number := _number(value)).is_integer():
        raise ValueError(f"expected a whole number, got {brief(value)}")
    return int(number)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {brief(value)}")
    return value


def _names(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > _MOST_ENTRIES:
        raise ValueError(f"expected names of modules, got {brief(value)}")
    return tuple(names)


def _patterns(table: object, kind: Callable[[object], Any]) -> dict[str, Any]:
    if not isinstance(table, dict) or len(table) > _MOST_ENTRIES:
        raise ValueError(f"expected an object of at most {_MOST_ENTRIES} patterns, got {brief(table)}")
    expressions = [pattern for pattern in table if not re.fullmatch(r"[\w.]*", pattern)]
    if len(expressions) > _MOST_EXPRESSIONS:
        raise ValueError(f"expected at most {_MOST_EXPRESSIONS} regular expressions, got {len(expressions)}")
    for pattern in expressions:
        _check_cost(pattern)
    return {pattern: kind(value) for pattern, value in table.items()}


def _check_cost(pattern: str) -> None:
    """Whether a regular expression cannot but be decided soon, in a time cubic in a name's length at most."""
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", pattern)  # escapes and sets of characters are one character each
    choices = len(re.findall(r"\((?!\?)|(?<!\()[*+?{]|\(\?", plain))
    if len(pattern) > _LONGEST_PATTERN or choices > _MOST_CHOICES or re.search(r"\)[*+?{]", plain):
        raise ValueError(
            f"pattern {brief(pattern)}: expected at most {_LONGEST_PATTERN} characters with {_MOST_CHOICES} repeats or "
            "groups, and no repeated group"
        )
