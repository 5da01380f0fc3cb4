"""The learning rate over the steps: LLaMA's cosine (arXiv 2302.13971, section 2.3), or warm-up, stable, decay."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from arriero.common.errors import ArrieroError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Factor of the peak learning rate at each step."""

    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """cosine: down from the peak over all steps; wsd: the peak, then down in the last `decay_share`; constant."""
    warmup_steps: int = 2000
    """Steps of linear rise from 0; 2,000 in LLaMA."""
    final_ratio: float = 0.1
    """What is left of the peak at the last step; 0.1 in LLaMA."""
    decay_share: float = 0.1
    """wsd: share of the steps in which the rate falls, linearly (Hu et al. 2024, arXiv 2404.06395)."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ArrieroError(f"warmup_steps: expected 0 or more, got {self.warmup_steps}")
        if not 0 <= self.final_ratio <= 1:
            raise ArrieroError(f"final_ratio: expected 0 to 1, got {self.final_ratio}")
        if not 0 < self.decay_share <= 1:
            raise ArrieroError(f"decay_share: expected a share above 0, up to 1, got {self.decay_share}")

    def fitted(self, steps: int) -> "ScheduleConfig":
        """With a warm-up of at most a tenth of the steps: short runs are usual in fine-tuning."""
        return replace(self, warmup_steps=min(self.warmup_steps, steps // 10))

    def factor(self, step: int, steps: int) -> float:
        """Factor at `step`, from 0, of `steps`; a warm-up longer than that is cut to fit."""
        warmup = min(self.warmup_steps, steps)
        if step < warmup:
            return (step + 1) / warmup
        match self.schedule:
            case "constant":
                return 1.0
            case "cosine":
                done = (step - warmup + 1) / max(1, steps - warmup)
                return self.final_ratio + (1 - self.final_ratio) * (1 + math.cos(math.pi * min(1.0, done))) / 2
            case "wsd":
                falling = max(1.0, self.decay_share * steps)
                done = (step + 1 - (steps - falling)) / falling
                return 1.0 - (1 - self.final_ratio) * min(1.0, max(0.0, done))
