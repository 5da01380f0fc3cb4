"""The settings of rejection sampling: what is asked, how often, who chooses, and what learns of the chosen."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from arriero.common.errors import ArrieroError
from arriero.model.choices import DEFAULT_MODEL
from arriero.model.lora_config import LoraConfig
from arriero.train.sft_config import EpochsConfig, SftOptimizerConfig


@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """How answers are drawn."""

    samples: int = 16
    """Answers to each prompt: the paper's K."""
    temperatures: tuple[float, ...] = (1.0,)
    """Sampling temperature; of several, such as 0.7,1.0,1.3, the one whose best answers have the highest mean reward
    on a few of the prompts is taken, as the paper tuned it anew for each iteration."""
    sweep_prompts: int = 8
    """Prompts on which several temperatures are compared."""
    max_tokens: int = 256
    """Most tokens of an answer."""
    decode_rows: int = 16
    """Answers that are decoded together."""

    def __post_init__(self) -> None:
        for name in ("samples", "sweep_prompts", "max_tokens", "decode_rows"):
            if (value := getattr(self, name)) < 1:
                raise ArrieroError(f"{name}: expected 1 or more, got {value}")
        if not self.temperatures or len(set(self.temperatures)) < len(self.temperatures):
            raise ArrieroError(f"temperatures: expected different numbers, one or more, got {self.temperatures}")
        for temperature in self.temperatures:
            if not 0 <= temperature < math.inf or (temperature == 0 and self.samples > 1):
                raise ArrieroError(
                    f"temperatures: expected numbers above 0, since greedy answers are equal; got {temperature}"
                )


@dataclass(frozen=True, kw_only=True)
class RejectionConfig:
    """An iteration of rejection sampling."""

    prompts: tuple[Path, ...]
    """Files of prompts: JSON lines of prompt or messages, a file of preferences, or text with a prompt a line."""
    safety_prompts: tuple[Path, ...] = ()
    """Files of prompts whose answers the safety scorer alone judges."""
    model: str = DEFAULT_MODEL
    """Who answers: the newest version."""
    base: str | None = None
    """What is fine-tuned on the best answers; default: the model below the adapter that answers, since each version
    starts again from the base."""
    reward: str
    """Who scores: a reward model's folder, rule:NAME, or command:PROGRAM."""
    safety: str | None = None
    """Who scores safety, likewise: then Llama 2's combined reward decides."""
    draw: DrawConfig = field(default_factory=DrawConfig)
    method: Literal["lora", "full"] = "lora"
    """lora: an adapter beside the frozen weights; full: all weights."""
    training: EpochsConfig = field(default_factory=EpochsConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: SftOptimizerConfig = field(default_factory=SftOptimizerConfig)
    eval_share: float = 0.05
    """Share of the best answers that is held out of the fine-tuning, by prompt, to measure the loss on."""
    choose_only: bool = False
    """Leave it at choosing the best answers: fine-tune nothing."""
    device: str = "auto"
    """auto, cpu or cuda."""
    seed: int = 0
    """Of all answers and of the fine-tuning."""

    def __post_init__(self) -> None:
        if self.safety_prompts and self.safety is None:
            raise ArrieroError("safety_prompts: expected a scorer of safety beside them: --safety")
