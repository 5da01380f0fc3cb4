"""The settings of the training loop: how long it goes on, and when it looks up.

`loop.py` is the loop; this file needs no part of PyTorch, so that help and estimates come at once.
"""

from dataclasses import dataclass
from typing import Literal

from arriero.common.errors import ArrieroError


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long to train, and when to look up from it."""

    steps: int
    """Steps of the optimizer in all."""
    accumulation: int = 1
    """Micro-batches a step, on each rank."""
    validate_every: int = 250
    """Steps between validations, with one at the end; 0 for none."""
    checkpoint_every: int = 500
    """Steps between checkpoints; 0 for one at the end only."""
    max_minutes: float | None = None
    """Stop, with a checkpoint, after this many minutes."""
    spike_sigmas: float = 6.0
    """Standard deviations above the mean of the last losses that make an alarm; 0 for none."""
    spike_window: int = 100
    """Steps whose losses are compared with."""
    on_spike: Literal["warn", "rollback"] = "warn"
    """warn: note it in the log; rollback: take the last checkpoint's model and go on with the data behind the spike."""
    keep_best: bool = False
    """Keep the checkpoint of the lowest validation loss."""
    patience: int = 0
    """Validations without a lower loss, one after the other, that end the run; 0: it goes to its last step."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation"):
            if getattr(self, name) < 1:
                raise ArrieroError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        for name in ("validate_every", "checkpoint_every", "spike_sigmas", "patience"):
            if getattr(self, name) < 0:
                raise ArrieroError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.spike_window < 10:
            raise ArrieroError(f"spike_window: expected 10 steps or more, got {self.spike_window}")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ArrieroError(f"max_minutes: expected a number above 0, got {self.max_minutes}")
