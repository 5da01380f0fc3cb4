"""Which checkpoints of a run stay."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class KeepConfig:
    """Which checkpoints stay."""

    keep: int = 2
    """The last so many."""
    keep_every: int = 0
    """And those of every so many steps, for good; 0 for none."""
    asynchronous: bool = True
    """Write while the training goes on."""
