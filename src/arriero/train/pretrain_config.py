"""The settings of pretraining: which shards, in what portions, what learns of them."""

from dataclasses import dataclass, field
from pathlib import Path

from arriero.common.device import DTypeName
from arriero.common.errors import ArrieroError
from arriero.model.choices import Recompute
from arriero.train.keep import KeepConfig
from arriero.train.loop_config import LoopConfig
from arriero.train.optimizer_config import OptimizerConfig
from arriero.train.parallel_config import ParallelConfig
from arriero.train.run_log import Tracker
from arriero.train.schedule import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and in what portions."""

    shards: tuple[Path, ...]
    """Folders that `arriero tokenize` wrote, one a source; repeat the option."""
    weights: dict[str, float] = field(default_factory=dict)
    """SOURCE=SHARE of the tokens, summing to 1; by default each source in proportion to its tokens."""
    rows: int = 8
    """Rows of a micro-batch on each rank."""
    tokens: int = 512
    """Tokens of a row."""
    across_documents: bool = False
    """Attend and predict across the documents packed in a row, as the LLaMA papers did."""
    validation_rows: int = 64
    """Rows of each source's held-out documents that a validation reads."""
    verify: bool = True
    """Compare the shards with their checksums before the first step: about a second a gigabyte."""

    def __post_init__(self) -> None:
        for name in ("rows", "tokens", "validation_rows"):
            if getattr(self, name) < 1:
                raise ArrieroError(f"{name}: expected 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pretraining run."""

    model: str = "tiny-15m"
    """A preset, for random weights with the shards' vocabulary, or trained weights to go on from."""
    data: DataConfig
    loop: LoopConfig
    optim: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoints: KeepConfig = field(default_factory=KeepConfig)
    recompute: Recompute = "selective"
    """What the backward pass computes again instead of keeping it: none, selective (all but costly layers) or full."""
    context: int | None = None
    """Most tokens of a sequence that the model is made for; by default as it is. Llama 2 doubled LLaMA's."""
    rope_theta: float | None = None
    """Base of the rotary frequencies; by default as the model has it. A larger one suits a longer context."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: DTypeName = "auto"
    """In which to compute: bfloat16 on a GPU, float32 on a CPU. Weights and optimizer stay in float32."""
    seed: int = 0
    """Of random weights and of the data's order."""
    trackers: tuple[Tracker, ...] = ()
    """Also log to tensorboard or wandb."""
    samples: tuple[str, ...] = ("Once upon a time",)
    """Prompts that the model continues at each validation."""
