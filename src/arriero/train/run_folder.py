"""A run's folder: the config it was begun with, its diary, its checkpoints, and the finished model.

config.toml      what was asked for, resolved; a run that is continued must ask for the same
metrics.jsonl    the diary (`run_log.py`)
checkpoints/     `checkpoint.py`
model/           the trained model in Hugging Face's format, when the run has finished
"""

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from arriero.common.errors import ArrieroError, FormatError, did_you_mean
from arriero.common.files import atomic_file

FREE = ("loop.max_minutes", "device", "trackers", "samples", "checkpoints", "data.verify")
"""Fields, and tables of them, that may change at any time: they change no result."""


class RunFolder:
    """The folder of one run, new or begun."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path, self.checkpoints, self.model = path / "config.toml", path / "checkpoints", path / "model"

    def check(self, config: Any, allow: Sequence[str] = ()) -> None:
        """See whether a run with this config may begin or go on here; nothing is written.

        Args:
            config: a dataclass of settings and of such dataclasses.
            allow: dotted names of fields, or of tables of them, that may differ from those of the run begun here.

        Raises:
            ArrieroError: other fields differ (the message lists them), or the folder holds something else.
        """
        new, begun = flatten(config), self.config_path.is_file()
        old = self._read() if begun else {}
        names = [*_names(dataclasses.asdict(config)), *old]
        if unknown := [name for name in allow if name not in names]:
            raise ArrieroError(f"allow: there is no field '{unknown[0]}'{did_you_mean(unknown[0], names)}")
        if self.path.exists() and not self.path.is_dir():
            raise ArrieroError(f"{self.path} is a file: choose a folder")
        if not begun and self.path.is_dir() and any(self.path.iterdir()):
            raise ArrieroError(f"{self.path} is not empty and holds no run (no config.toml): choose another folder")
        differing = [name for name in sorted(old.keys() | new.keys()) if begun and old.get(name) != new.get(name)]
        if refused := [name for name in differing if not _within(name, (*FREE, *allow))]:
            listed = "; ".join(f"{name} was {_told(old.get(name))}, is {_told(new.get(name))}" for name in refused)
            raise ArrieroError(
                f"{self.path} holds a run with other settings: {listed}. Give those again, name the fields with "
                "--allow, or choose another folder"
            )

    def begin(self, config: Any) -> None:
        """Write the config of a run that begins, or goes on with what was allowed to change."""
        with atomic_file(self.config_path) as aside:
            aside.write_text("\n".join(_toml(_plain(dataclasses.asdict(config)))) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        try:
            return _flat(tomllib.loads(self.config_path.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"{self.config_path} is damaged ({error}): choose another folder") from error


def flatten(config: Any) -> dict[str, Any]:
    """A config as dotted names and TOML's kinds of value; fields that are None are left out, as TOML has no null."""
    return _flat(_plain(dataclasses.asdict(config)))


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
    """The lines of a TOML document; the packages that write one leave backslashes and dots in names as they are."""
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


def _names(table: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of all fields, set or not, and of the tables around them."""
    names = []
    for name, value in table.items():
        names += [prefix + name, *(_names(value, f"{prefix}{name}.") if isinstance(value, dict) else ())]
    return names


def _within(name: str, fields: Sequence[str]) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in fields)


def _told(value: Any) -> str:
    return "not set" if value is None else repr(value)
