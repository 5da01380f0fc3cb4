"""A run's diary: `metrics.jsonl` in its folder, one object a line, which the report reads; and optional trackers.

Kinds of line: start, mixture, step, validation, sample, energy, event. Each has `kind`, `step` and `time`.
"""

import json
import math
import time
from pathlib import Path
from typing import Any, Literal

from arriero.common.errors import FormatError, require
from arriero.common.files import atomic_file

Tracker = Literal["tensorboard", "wandb"]
METRICS_NAME = "metrics.jsonl"


class RunLog:
    """Appends to a run's `metrics.jsonl`; each line is whole in the file before the next step begins."""

    def __init__(self, folder: Path, trackers: tuple[Tracker, ...] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / METRICS_NAME
        self._trackers = [_TRACKERS[name](folder) for name in trackers]

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one line; a number that is not finite becomes null, which JSON has no other word for."""
        line = {"kind": kind, "step": step, "time": time.time(), **_finite(values)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        if kind in ("step", "validation"):
            numbers = {f"{kind}/{name}": x for name, x in values.items() if isinstance(x, int | float)}
            for tracker in self._trackers:
                tracker.log(numbers, step)

    def forget_after(self, step: int) -> None:
        """Drop the lines of later steps, which a run resumed at `step` makes again, and one that a kill cut off.

        Raises:
            FormatError: a line is no line of a diary.
        """
        if not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # the last may be cut
        kept = [line for number, line in enumerate(lines, start=1) if self._step(line, number) <= step]
        with atomic_file(self.path) as aside:
            aside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def last(self, kind: str) -> dict[str, Any] | None:
        """The last line of a kind; None if there is none yet."""
        found = None
        if self.path.is_file():
            with self.path.open(encoding="utf-8") as lines:
                for line in lines:
                    found = values if (values := json.loads(line))["kind"] == kind else found
        return found

    def _step(self, line: str, number: int) -> int:
        try:
            step = json.loads(line)["step"]
        except (ValueError, LookupError, TypeError, RecursionError):
            step = None
        if not isinstance(step, int):
            raise FormatError(f"{self.path}, line {number}: damaged; remove the line to go on")
        return step


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        require("tensorboard", extra="trackers", purpose="logging to TensorBoard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, numbers: dict[str, float], step: int) -> None:
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, step)


class _WeightsAndBiases:
    def __init__(self, folder: Path) -> None:
        wandb = require("wandb", extra="trackers", purpose="logging to Weights & Biases")
        self.run = wandb.init(project="arriero", name=folder.name, dir=str(folder), resume="allow")

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.run.log(numbers, step=step)


_TRACKERS: dict[str, type[_TensorBoard] | type[_WeightsAndBiases]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
}
