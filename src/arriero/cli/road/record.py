"""What a stage took: seconds, memory, energy, over all the times that it was begun; kept beside its results."""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from arriero.common.errors import FormatError
from arriero.common.files import atomic_file

_CLEAR_PEAK = "5"
"""Written to Linux's clear_refs: the peak of a process's memory is counted anew."""


@dataclass(kw_only=True)
class Record:
    """Of one stage."""

    name: str
    title: str
    tells: str
    calls: list[str]
    """The commands, as they may be typed."""
    runs: list[str]
    """Folders with diaries, below the road's."""
    began: float = field(default_factory=time.time)
    """When it was begun first, in seconds since 1970."""
    done: bool = False
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of this process and the workers that it waited for."""
    memory_bytes: int = 0
    """Peak of this process; where Linux does not count it by stage, since the process began."""
    joules: float = 0.0
    energy_source: str = ""

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / f"{self.name}.json") as aside:
            aside.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @contextmanager
    def measured(self, folder: Path) -> Iterator[None]:
        """Add what the block takes, also where it is interrupted or fails, and write it down if the road has begun."""
        from arriero.train.carbon import EnergyMeter

        _clear_peak()
        meter, began, cpu = EnergyMeter(), time.monotonic(), _cpu_seconds()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - began
            self.cpu_seconds += _cpu_seconds() - cpu
            self.memory_bytes = max(self.memory_bytes, _peak_bytes())
            self.joules += meter.joules()
            self.energy_source = meter.source
            if folder.parent.is_dir():
                self.save(folder)


def read_record(folder: Path, name: str) -> Record | None:
    """A stage's record; None before it was begun.

    Raises:
        FormatError: it is damaged.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise FormatError(f"{path} is damaged ({error}): remove it, and the stage is looked at again") from error


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
        if line is not None:
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _clear_peak() -> None:
    path = Path("/proc/self/clear_refs")
    if path.is_file():
        path.write_text(_CLEAR_PEAK)
