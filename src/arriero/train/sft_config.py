"""The settings of supervised fine-tuning: which examples, how they are batched, what of the model learns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from arriero.common.device import DTypeName
from arriero.common.errors import ArrieroError
from arriero.model.choices import DEFAULT_MODEL, Quantisation, Recompute
from arriero.model.lora_config import LoraConfig
from arriero.train.keep import KeepConfig
from arriero.train.optimizer_config import TuningOptimizerConfig
from arriero.train.parallel_config import ParallelConfig
from arriero.train.run_log import Tracker
from arriero.train.schedule import ScheduleConfig

Answers = Literal["all", "last"]
"""Which answers of a chat have a loss."""
TooLong = Literal["drop", "truncate", "error"]
"""What becomes of an example that is longer than a row."""


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig:
    """Which examples, and what is learnt of them."""

    data: tuple[Path, ...]
    """Files of examples (JSON lines, JSON or Parquet, compressed or not) or folders of them; repeat the option."""
    format: Literal["auto", "messages", "completion", "preference", "dialogue", "alpaca", "sharegpt", "text"] = "auto"
    """What rows are; auto: what the keys of the first one say."""
    template: str | None = None
    """Chat template instead of the model's own: chatml, llama2, or a file of Jinja text."""
    answers: Answers = "all"
    """Learn all answers of a chat, or the last one."""
    tokens: int | None = None
    """Most tokens of an example, and of a packed row; default: 2,048, or the model's context if that is shorter."""
    too_long: TooLong = "drop"
    """What becomes of longer examples: drop, truncate, or error."""
    pack: bool = False
    """Fill rows of --tokens with whole examples, and count rows instead of examples in a batch, as Llama 2 did."""
    eval_share: float = 0.05
    """Share of the examples that is held out, by prompt, to measure the loss on."""
    eval_data: tuple[Path, ...] = ()
    """Files of examples to measure the loss on, instead of a share."""

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 2:
            raise ArrieroError(f"tokens: expected 2 or more, got {self.tokens}")
        if not 0 <= self.eval_share < 1:
            raise ArrieroError(f"eval_share: expected a share from 0 up to 1, got {self.eval_share}")


@dataclass(frozen=True, kw_only=True)
class EpochsConfig:
    """How long to train, in what portions, and when to look up from it."""

    epochs: float = 2.0
    """How often each example is seen."""
    steps: int | None = None
    """Steps of the optimizer, instead of --epochs."""
    batch: int = 16
    """Examples (or packed rows) a step, by all processes together."""
    rows: int | None = None
    """Examples that a process computes at a time; by default as many as take 2,048 tokens, on a GPU 8,192."""
    validate_every: int | None = None
    """Steps between evaluations; by default eight in a run."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    patience: int = 3
    """Evaluations without a lower loss, one after the other, that end the run; 0: it goes to its end."""
    max_minutes: float | None = None
    """Stop, with a checkpoint, after this many minutes."""

    def __post_init__(self) -> None:
        if not 0 < self.epochs < float("inf"):
            raise ArrieroError(f"epochs: expected a number above 0, got {self.epochs}")
        for name in ("steps", "batch", "rows", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArrieroError(f"{name}: expected 1 or more, got {value}")


@dataclass(frozen=True, kw_only=True)
class SftOptimizerConfig(TuningOptimizerConfig):
    """AdamW, with a learning rate that suits what learns."""

    usual: ClassVar[Mapping[str, float]] = {"lora": 2e-4, "full": 2e-5}
    lr: float | None = None
    """Peak of the learning rate; by default 2e-4 for LoRA, 2e-5 for all weights (Llama 2)."""
    weight_decay: float = 0.0
    """Share of lr by which a matrix shrinks each step; 0.1 in Llama 2."""


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """A run of supervised fine-tuning."""

    model: str = DEFAULT_MODEL
    """What to fine-tune: a known name, a folder, a .gguf file or a hub id."""
    method: Literal["lora", "full"] = "lora"
    """lora: an adapter beside the frozen weights; full: all weights."""
    quantise: Quantisation = "none"
    """Keep the frozen weights in few bits (QLoRA): nf4 or int8."""
    examples: ExamplesConfig
    training: EpochsConfig = field(default_factory=EpochsConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: SftOptimizerConfig = field(default_factory=SftOptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup_steps=10))
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoints: KeepConfig = field(default_factory=KeepConfig)
    recompute: Recompute = "selective"
    """What the backward pass computes again instead of keeping it: none, selective (all but costly layers) or full."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: DTypeName = "auto"
    """In which to compute: bfloat16 on a GPU, float32 on a CPU. Weights and optimizer stay in float32."""
    seed: int = 0
    """Of the adapter's first weights, of what is held out and of the examples' order."""
    trackers: tuple[Tracker, ...] = ()
    """Also log to tensorboard or wandb."""
    samples: tuple[str, ...] = ()
    """Messages that the model answers at each evaluation; by default the first three that are held out."""

    def __post_init__(self) -> None:
        if self.quantise != "none" and self.method == "full":
            raise ArrieroError(f"quantise: {self.quantise} weights do not learn: expected --method lora beside it")
