"""The settings of a reward model's training: which comparisons in which mix, the losses, what of the model learns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import ClassVar, Literal

from arriero.align.preferences import Kind
from arriero.common.device import DTypeName
from arriero.common.errors import ArrieroError
from arriero.model.choices import DEFAULT_MODEL, Quantisation, Recompute
from arriero.model.lora_config import LoraConfig
from arriero.train.keep import KeepConfig
from arriero.train.optimizer_config import TuningOptimizerConfig
from arriero.train.parallel_config import ParallelConfig
from arriero.train.run_log import Tracker
from arriero.train.schedule import ScheduleConfig
from arriero.train.sft_config import EpochsConfig

Margins = Literal["none", "small", "large"]
"""Which table of margins."""
OTHER_SHARES: dict[Kind, float] = {"helpfulness": 0.5, "safety": 0.1}
"""Of comparisons of the other kind in each reward model's data (Llama 2, section 3.2.2)."""
_WARMUP_SHARE, _LEAST_WARMUP = 0.03, 5


@dataclass(frozen=True, kw_only=True)
class ComparisonsConfig:
    """Which comparisons."""

    preferences: tuple[Path, ...]
    """Files of preferences, or what `arriero align import` reads (HH-RLHF, TRL, tables); repeat the option."""
    kind: Kind = "helpfulness"
    """Which reward model: helpfulness or safety; rows that do not say what they are judged by are of this kind too."""
    other_share: float | None = None
    """Share of the other kind in the data; default: Llama 2's 0.5 for helpfulness, 0.1 for safety. Where there are
    fewer, all of them are taken."""
    tokens: int | None = None
    """Most tokens of a prompt with its response, longer ones are dropped; default: the model's context."""
    eval_share: float = 0.1
    """Share of the comparisons that is held out, by prompt, to measure accuracy on."""
    eval_preferences: tuple[Path, ...] = ()
    """Files of comparisons to measure on, instead of a share."""

    def __post_init__(self) -> None:
        if not self.preferences:
            raise ArrieroError("no comparisons given: expected --preferences FILE")
        if self.other_share is not None and not 0 <= self.other_share < 1:
            raise ArrieroError(f"other_share: expected a share from 0 up to 1, got {self.other_share}")
        if self.tokens is not None and self.tokens < 2:
            raise ArrieroError(f"tokens: expected 2 or more, got {self.tokens}")
        if not 0 <= self.eval_share < 1:
            raise ArrieroError(f"eval_share: expected a share from 0 up to 1, got {self.eval_share}")

    @property
    def share_of_others(self) -> float:
        """Of the other kind, as asked for or as in the paper."""
        return OTHER_SHARES[self.kind] if self.other_share is None else self.other_share


@dataclass(frozen=True, kw_only=True)
class RewardLossConfig:
    """What a reward model is trained to do."""

    margins: Margins | None = None
    """By how much a better response is to score above the other one, by degree: none, small (1, 2/3, 1/3, 0) or large
    (3, 2, 1, 0); default: small where degrees are told."""
    safety_weight: float | None = None
    """Weight of the loss that tells safe responses; default: 1 for a safety model where safety is told, else 0."""

    def __post_init__(self) -> None:
        if self.safety_weight is not None and not 0 <= self.safety_weight < float("inf"):
            raise ArrieroError(f"safety_weight: expected 0 or more, got {self.safety_weight}")


@dataclass(frozen=True, kw_only=True)
class RewardOptimizerConfig(TuningOptimizerConfig):
    """AdamW, with a learning rate that suits what learns."""

    usual: ClassVar[Mapping[str, float]] = {"lora": 2e-4, "full": 1e-5}
    lr: float | None = None
    """Peak of the learning rate; by default 2e-4 for LoRA, 1e-5 for all weights (Llama 2; 5e-6 for its 70B)."""
    eps: float = 1e-5
    """Added to the root of the squared gradient's mean; 1e-5 in Llama 2."""


@dataclass(frozen=True, kw_only=True)
class RewardScheduleConfig(ScheduleConfig):
    """The learning rate over the steps: Llama 2's cosine to a tenth."""

    warmup_steps: int | None = None  # type: ignore[assignment]
    """Steps of linear rise from 0; default: 3% of the steps, 5 at least (Llama 2)."""

    def __post_init__(self) -> None:
        self.resolve(1)

    def resolve(self, steps: int) -> ScheduleConfig:
        """With the warm-up of a run of so many steps."""
        usual = max(_LEAST_WARMUP, ceil(_WARMUP_SHARE * steps))
        return ScheduleConfig(
            schedule=self.schedule,
            warmup_steps=usual if self.warmup_steps is None else self.warmup_steps,
            final_ratio=self.final_ratio,
            decay_share=self.decay_share,
        )


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """A run that trains a reward model."""

    model: str = DEFAULT_MODEL
    """The chat model to begin with: a known name, a folder, a .gguf file or a hub id."""
    method: Literal["lora", "full"] = "lora"
    """lora: an adapter beside the frozen weights; full: all weights."""
    quantise: Quantisation = "none"
    """Keep the frozen weights in few bits (QLoRA): nf4 or int8."""
    comparisons: ComparisonsConfig
    loss: RewardLossConfig = field(default_factory=RewardLossConfig)
    training: EpochsConfig = field(default_factory=lambda: EpochsConfig(epochs=1.0, patience=0))
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: RewardOptimizerConfig = field(default_factory=RewardOptimizerConfig)
    schedule: RewardScheduleConfig = field(default_factory=RewardScheduleConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoints: KeepConfig = field(default_factory=KeepConfig)
    recompute: Recompute = "selective"
    """What the backward pass computes again instead of keeping it: none, selective (all but costly layers) or full."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: DTypeName = "auto"
    """In which to compute: bfloat16 on a GPU, float32 on a CPU. Weights, head and optimizer stay in float32."""
    seed: int = 0
    """Of the first weights of adapter and head, of what is held out or left out of the mix, and of the order."""
    trackers: tuple[Tracker, ...] = ()
    """Also log to tensorboard or wandb."""

    def __post_init__(self) -> None:
        if self.quantise != "none" and self.method == "full":
            raise ArrieroError(f"quantise: {self.quantise} weights do not learn: expected --method lora beside it")
        if self.parallel.tensor != 1:
            raise ArrieroError("tensor: a model with a score head cannot be divided: share the work by --shard")
