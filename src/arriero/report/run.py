"""A run's folder as the report sees it: `config.toml` and the diary `metrics.jsonl` (`train/run_log.py`), nothing else.

A run may be in progress, its last line cut; lines that are no JSON objects are counted and passed over, and what is no
number where one is due counts as missing. After a roll-back, or a resumption without the loop's own clean-up, the steps
that were done again stand for those before.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arriero.common.errors import NotFoundError

Line = dict[str, Any]


@dataclass
class Run:
    """What a diary holds, by kind of line and in order."""

    name: str
    path: Path
    config: str = ""
    """config.toml as it stands; '' if there is none."""
    start: Line = field(default_factory=dict)
    mixture: list[Line] = field(default_factory=list)
    examples: Line = field(default_factory=dict)
    """Of fine-tuning: what became of the examples."""
    steps: list[Line] = field(default_factory=list)
    validations: list[Line] = field(default_factory=list)
    samples: list[Line] = field(default_factory=list)
    energies: list[Line] = field(default_factory=list)
    """Each session counts from zero; `session` tells which one it is."""
    events: list[Line] = field(default_factory=list)
    damaged_lines: int = 0
    sessions: int = 0
    """How often the run was begun or taken up again."""

    @property
    def last(self) -> Line:
        """The last step; {} before the first."""
        return self.steps[-1] if self.steps else {}

    @property
    def learns_rewards(self) -> bool:
        """Whether it is PPO's, whose validations are answers' rewards and no losses of a text."""
        return any("reward" in line for line in (self.last, *self.validations[-1:]))

    def add(self, line: Line) -> None:
        """Take in the next line of the diary."""
        kind = line.get("kind")
        if kind == "start":
            self.start = line
            self.sessions += 1
        elif kind == "mixture":
            self.mixture = list(objects(line.get("rows")))
        elif kind == "examples":
            self.examples = line
        elif kind == "step":
            self._forget_from(line["step"])
            self.steps.append(line)
        elif kind in ("validation", "sample", "event"):
            getattr(self, f"{kind}s").append(line)
        elif kind == "energy":
            self.energies.append({**line, "session": self.sessions})

    def _forget_from(self, step: int) -> None:
        if not self.steps or self.steps[-1]["step"] < step:
            return
        for name in ("steps", "validations", "samples"):
            setattr(self, name, [line for line in getattr(self, name) if line["step"] < step])


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        NotFoundError: there is no such folder, or nothing of a run in it.
    """
    metrics, config = folder / "metrics.jsonl", folder / "config.toml"
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is no folder: expected a run's, such as `arriero pretrain` makes")
    if not metrics.is_file():
        raise NotFoundError(f"{folder} has no metrics.jsonl: expected the folder of a run that has begun")
    run = Run(name=folder.resolve().name, path=folder)
    if config.is_file():
        run.config = config.read_text(encoding="utf-8", errors="replace")
    with metrics.open(encoding="utf-8", errors="replace") as lines:
        for text in lines:
            line = _parse(text)
            if line is None:
                run.damaged_lines += 1
            else:
                run.add(line)
    return run


def glance(folder: Path, most_bytes: int = 32 * 1024) -> Run:
    """What the ends of a run's diary tell: what it is, and how far. For lists of many runs.

    Args:
        most_bytes: read at either end.

    Raises:
        OSError: the diary cannot be read.
    """
    run = Run(name=folder.resolve().name, path=folder)
    with (folder / "metrics.jsonl").open("rb") as file:
        head = file.read(most_bytes)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(len(head), size - most_bytes))
        tail = file.read()
    first = next((line for text in head.split(b"\n") if (line := _parse(text.decode("utf-8", "replace")))), None)
    if first is not None and first.get("kind") == "start" and size > 2 * most_bytes:
        run.add(first)
        head = b""
    for text in (head + tail).split(b"\n"):
        if line := _parse(text.decode("utf-8", "replace")):
            run.add(line)
    return run


def _parse(text: str) -> Line | None:
    """An object with a step; None for anything else."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return None
    return line


def number(line: Line, name: str) -> float:
    """A finite number of a line; NaN where there is none."""
    value = line.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:  # an integer beyond all floats
        return math.nan


def column(lines: Sequence[Line], name: str) -> list[float]:
    """The same number of each line."""
    return [number(line, name) for line in lines]


def objects(values: Any) -> Iterator[Line]:
    """The objects of a list; nothing of what is no list."""
    return (value for value in values if isinstance(value, dict)) if isinstance(values, list) else iter(())


def named(line: Line, name: str) -> dict[str, Any]:
    """An object in a line; {} where there is none."""
    value = line.get(name)
    return value if isinstance(value, dict) else {}
