"""A run's folder: the config it was begun with, its diary, its checkpoints, and the finished model.

config.toml      what was asked for, resolved; a run that is continued must ask for the same
metrics.jsonl    the diary (`run_log.py`)
checkpoints/     `checkpoint.py`
model/           the trained model in Hugging Face's format, when the run has finished
"""

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import toml

from arriero.common.errors import ArrieroError, FormatError, did_you_mean
from arriero.common.files import atomic_file

FREE = ("loop.max_minutes", "device", "trackers")
"""Fields that may change at any time: they change no result."""


class RunFolder:
    """The folder of one run, new or begun."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path, self.checkpoints, self.model = path / "config.toml", path / "checkpoints", path / "model"

    def begin(self, config: Any, allow: Sequence[str] = ()) -> None:
        """Write the config of a new run, or check it against that of the run begun here.

        Args:
            config: a dataclass of settings and of such dataclasses.
            allow: dotted names of fields that may differ; the new values are kept.

        Raises:
            ArrieroError: other fields differ (the message lists them), or the folder holds something else.
        """
        new = flatten(config)
        if unknown := [name for name in allow if name not in new]:
            raise ArrieroError(f"allow: there is no field '{unknown[0]}'{did_you_mean(unknown[0], new)}")
        if self.config_path.is_file():
            old = self._read()
            differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
            if refused := [name for name in differing if name not in (*FREE, *allow)]:
                listed = "; ".join(f"{name} was {_told(old.get(name))}, is {_told(new.get(name))}" for name in refused)
                raise ArrieroError(
                    f"{self.path} holds a run with other settings: {listed}. Give those again, name the fields with "
                    "--allow, or choose another folder"
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise ArrieroError(f"{self.path} is not empty and holds no run (no config.toml): choose another folder")
        with atomic_file(self.config_path) as aside:
            aside.write_text(toml.dumps(_nested(new)), encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        try:
            return _flat(tomllib.loads(self.config_path.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"{self.config_path} is damaged ({error}): choose another folder") from error


def flatten(config: Any) -> dict[str, Any]:
    """A config as dotted names and TOML's kinds of value; fields that are None are left out, as TOML has no null."""
    return {name: value for name, value in _flat(_plain(dataclasses.asdict(config))).items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split(".")
        table = tables
        for key in outer:
            table = table.setdefault(key, {})
        table[last] = value
    return tables


def _told(value: Any) -> str:
    return "not set" if value is None else repr(value)
