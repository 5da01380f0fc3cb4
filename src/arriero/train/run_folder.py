"""A run's folder: the config it was begun with, its diary, its checkpoints, and the finished model.

config.toml      what was asked for, resolved; a run that is continued must ask for the same
metrics.jsonl    the diary (`run_log.py`)
checkpoints/     `checkpoint.py`
run.lock         held by the process that trains here
model/           the trained model in Hugging Face's format, when the run has finished
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arriero.common.errors import ArrieroError, did_you_mean
from arriero.common.lock import hold_lock
from arriero.common.settings import flatten, read_settings, told, write_settings

FREE = ("loop.max_minutes", "training.max_minutes", "device", "trackers", "samples", "checkpoints", "data.verify")
"""Fields, and tables of them, that may change at any time: they change no result."""
LOCK = "run.lock"
_WAIT_S = 3.0
"""For another process that is about to end."""


class RunFolder:
    """The folder of one run, new or begun."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path, self.checkpoints, self.model = path / "config.toml", path / "checkpoints", path / "model"

    def check(self, config: Any, allow: Sequence[str] | None = ()) -> None:
        """See whether a run with this config may begin or go on here; nothing is written.

        Args:
            config: a dataclass of settings and of such dataclasses.
            allow: dotted names of fields, or of tables of them, that may differ from those of the run begun here;
                None where a command has no --allow.

        Raises:
            ArrieroError: other fields differ (the message lists them), or the folder holds something else.
        """
        new, begun = flatten(config), self.config_path.is_file()
        old = read_settings(self.config_path) if begun else {}
        names = [*_names(dataclasses.asdict(config)), *old]
        allowed = allow or ()
        if unknown := [name for name in allowed if name not in names]:
            raise ArrieroError(f"allow: there is no field '{unknown[0]}'{did_you_mean(unknown[0], names)}")
        if self.path.exists() and not self.path.is_dir():
            raise ArrieroError(f"{self.path} is a file: choose a folder")
        if not begun and self.path.is_dir() and any(x.name != LOCK for x in self.path.iterdir()):
            raise ArrieroError(f"{self.path} is not empty and holds no run (no config.toml): choose another folder")
        differing = [name for name in sorted(old.keys() | new.keys()) if begun and old.get(name) != new.get(name)]
        if refused := [name for name in differing if not _within(name, (*FREE, *allowed))]:
            listed = "; ".join(f"{name} was {told(old.get(name))}, is {told(new.get(name))}" for name in refused)
            ways = "remove it" if allow is None else "name the fields with --allow"
            raise ArrieroError(
                f"{self.path} holds a run with other settings: {listed}. Give those again, {ways}, or choose another "
                "folder"
            )

    @contextmanager
    def hold(self, config: Any, allow: Sequence[str] | None = ()) -> Iterator[None]:
        """Keep other processes from training here, for a block; and `check` again, as one may have begun meanwhile.

        Raises:
            ArrieroError: another one trains here, and goes on doing so for three seconds; or as in `check`.
        """
        with hold_lock(self.path / LOCK, wait_s=_WAIT_S, what="the run"):
            self.check(config, allow)
            yield

    def begin(self, config: Any) -> None:
        """Write the config of a run that begins, or goes on with what was allowed to change."""
        write_settings(self.config_path, config)


def _names(table: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of all fields, set or not, and of the tables around them."""
    names = []
    for name, value in table.items():
        names += [prefix + name, *(_names(value, f"{prefix}{name}.") if isinstance(value, dict) else ())]
    return names


def _within(name: str, fields: Sequence[str]) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in fields)
