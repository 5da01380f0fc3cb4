"""Configs as TOML: written with their resolved values, read back flat, to be compared.

The packages that write TOML leave backslashes and dots in names as they are, so the few lines that do it are here.
"""

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arriero.common.errors import FormatError
from arriero.common.files import atomic_file


def flatten(config: Any) -> dict[str, Any]:
    """A config as dotted names and TOML's kinds of value; fields that are None are left out, as TOML has no null."""
    return _flat(_plain(dataclasses.asdict(config)))


def write_settings(path: Path, config: Any) -> None:
    """Write a config as TOML."""
    with atomic_file(path) as aside:
        aside.write_text("\n".join(_toml(_plain(dataclasses.asdict(config)))) + "\n", encoding="utf-8")


def read_settings(path: Path) -> dict[str, Any]:
    """A file of settings, flat as `flatten` makes it.

    Raises:
        FormatError: it is damaged.
    """
    try:
        return _flat(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is damaged ({error}): choose another folder") from error


def told(value: Any) -> str:
    """A setting's value in a message."""
    return "not set" if value is None else repr(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _toml(table: dict[str, Any], path: str = "") -> Iterator[str]:
    """The lines of a TOML document."""
    inner = {name: value for name, value in table.items() if isinstance(value, dict)}
    yield from (f"{_key(name)} = {_value(value)}" for name, value in table.items() if name not in inner)
    for name, value in inner.items():
        yield f"\n[{path}{_key(name)}]"
        yield from _toml(value, f"{path}{_key(name)}.")


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
