"""How much a road does: decided once, by what is asked for and how fast the machine is, and kept."""

from dataclasses import dataclass
from pathlib import Path

from arriero.cli.road.stage import FAST, FULL, Size
from arriero.common.errors import ArrieroError
from arriero.common.settings import read_settings, write_settings

FILE = "road.toml"
USUAL_FLOPS = 2.1e11
"""Operations a second of the machine that `FULL` and `FAST` were measured on: two cores."""
_SLOWEST, _FASTEST = 0.2, 2.0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Of one road."""

    fast: bool
    speed: float
    """Of the machine, when the road was begun, over the usual one's."""

    @property
    def size(self) -> Size:
        """What each stage does."""
        return (FAST if self.fast else FULL).at_speed(self.speed)


def take_pace(folder: Path, *, fast: bool) -> Pace:
    """The pace of the road in a folder: as it was begun, or a new one by this machine's speed.

    Raises:
        ArrieroError: it was begun with the other choice of --fast.
    """
    path = folder / FILE
    if path.is_file():
        begun = read_settings(path)
        pace = Pace(fast=begun["fast"], speed=begun["speed"])
        if pace.fast != fast:
            how = "with --fast: give it again" if pace.fast else "without --fast: leave it out"
            raise ArrieroError(f"{folder} was begun {how}, or choose another folder with --out")
        return pace
    from arriero.train.speed import measure_matmul

    pace = Pace(fast=fast, speed=round(min(_FASTEST, max(_SLOWEST, measure_matmul() / USUAL_FLOPS)), 2))
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(path, pace)
    return pace
