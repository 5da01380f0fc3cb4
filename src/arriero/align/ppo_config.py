"""The settings of PPO: which prompts, whose reward, how answers are sampled, how the policy learns of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from arriero.common.device import DTypeName
from arriero.common.errors import ArrieroError
from arriero.model.choices import DEFAULT_MODEL, Recompute
from arriero.model.lora_config import LoraConfig
from arriero.train.keep import KeepConfig
from arriero.train.optimizer_config import TuningOptimizerConfig
from arriero.train.parallel_config import ParallelConfig
from arriero.train.run_log import Tracker
from arriero.train.schedule import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """What is asked."""

    prompts: tuple[Path, ...]
    """Files of prompts: preferences, JSON lines of messages or prompts, text of a prompt a line; repeat the option."""
    max_prompt_tokens: int = 256
    """Longer prompts are left out."""
    eval_share: float = 0.1
    """Share of the prompts that is held out, to measure the reward on."""
    eval_prompts: tuple[Path, ...] = ()
    """Files of prompts to measure the reward on, instead of a share."""
    eval_count: int = 32
    """Held-out prompts that are answered at each evaluation, at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.eval_share < 1:
            raise ArrieroError(f"eval_share: expected a share from 0 up to 1, got {self.eval_share}")
        for name in ("max_prompt_tokens", "eval_count"):
            _expect_count(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Who judges the answers."""

    reward: str
    """A reward model's folder; rule:NAME, a built-in program; or command:PROGRAM, one of yours."""
    safety: str | None = None
    """A second judge, of safety, which decides where an answer may be unsafe, as in Llama 2."""
    normalise: Literal["initial", "batch", "none"] = "initial"
    """Scores less their mean, by their deviation: those of the first policy's answers, or of each batch (Llama 2)."""
    missing_score: float | None = None
    """Normalised score of an answer that is empty or has no end, instead of its own; such as -1."""
    watch: tuple[str, ...] = ()
    """Judges whose scores are only written down: rule:NAME or command:PROGRAM; repeat the option."""

    def __post_init__(self) -> None:
        if self.missing_score is not None and not math.isfinite(self.missing_score):
            raise ArrieroError(f"missing_score: expected a finite number, got {self.missing_score}")


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How answers are sampled: from the whole softmax."""

    batch: int = 32
    """Answers of an iteration, by all processes together; 512 in Llama 2."""
    max_tokens: int = 64
    """Most tokens of an answer."""
    temperature: float = 1.0
    """Divides the logits of sampler, policy and reference alike."""
    decode_rows: int = 32
    """Answers that a process decodes at a time."""

    def __post_init__(self) -> None:
        for name in ("batch", "max_tokens", "decode_rows"):
            _expect_count(name, getattr(self, name))
        if not 0 < self.temperature < math.inf:
            raise ArrieroError(f"temperature: expected a number above 0, got {self.temperature}: PPO needs samples")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is learnt of the answers, and what going astray costs."""

    mini_batch: int = 16
    """Answers of a step, by all processes together; 64 in Llama 2."""
    epochs: int = 1
    """How often each answer is learnt from; one step a mini-batch in Llama 2."""
    ratio_clip: float = 0.2
    """How far the probabilities' ratio may go from 1 before it counts no more."""
    value_clip: float = 0.2
    """How far a value may go from what it was, likewise."""
    value_coefficient: float = 0.1
    """Weight of the critic's loss beside the policy's."""
    discount: float = 1.0
    """γ of the advantages."""
    decay: float = 0.95
    """λ of the advantages."""
    whiten_rewards: bool = False
    """Scale the tokens' rewards to variance 1, their mean left as it is."""
    beta: float = 0.01
    """β: what a nat of divergence from the reference costs; 0.01 or, for 34B and 70B, 0.005 in Llama 2."""
    controller: Literal["fixed", "adaptive"] = "fixed"
    """fixed: β stays; adaptive: it follows a target."""
    target_kl: float = 6.0
    """adaptive: nats an answer."""
    horizon: float = 10_000.0
    """adaptive: answers over which β follows."""
    max_kl: float | None = 25.0
    """Nats an answer, on average, at which the run ends: reward beyond is often of the reward model's errors."""

    def __post_init__(self) -> None:
        for name in ("mini_batch", "epochs"):
            _expect_count(name, getattr(self, name))
        for name in ("ratio_clip", "value_clip", "target_kl", "horizon"):
            if not 0 < getattr(self, name) < math.inf:
                raise ArrieroError(f"{name}: expected a number above 0, got {getattr(self, name)}")
        for name in ("value_coefficient", "beta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ArrieroError(f"{name}: expected a number of 0 or more, got {getattr(self, name)}")
        for name in ("discount", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArrieroError(f"{name}: expected a number from 0 to 1, got {getattr(self, name)}")
        if self.ratio_clip >= 1:
            raise ArrieroError(f"ratio_clip: expected a number below 1, got {self.ratio_clip}")
        if self.controller == "adaptive" and not self.beta:
            raise ArrieroError("beta: expected a number above 0 for an adaptive controller, got 0")
        if self.max_kl is not None and not self.max_kl > 0:
            raise ArrieroError(f"max_kl: expected a number above 0, got {self.max_kl}")


@dataclass(frozen=True, kw_only=True)
class IterationsConfig:
    """How long to train, and when to look up from it."""

    iterations: int = 50
    """Batches of answers; 200 to 400 in Llama 2."""
    rows: int | None = None
    """Answers that a process computes at a time; by default as many as take 2,048 tokens, on a GPU 8,192."""
    validate_every: int | None = None
    """Iterations between evaluations; by default eight in a run."""
    checkpoint_every: int = 10
    """Iterations between checkpoints."""
    patience: int = 0
    """Evaluations without a higher reward, one after the other, that end the run; 0: it goes to its end."""
    max_minutes: float | None = None
    """Stop, with a checkpoint, after this many minutes."""

    def __post_init__(self) -> None:
        for name in ("iterations", "checkpoint_every"):
            _expect_count(name, getattr(self, name))
        for name in ("rows", "validate_every"):
            if (value := getattr(self, name)) is not None:
                _expect_count(name, value)


@dataclass(frozen=True, kw_only=True)
class PpoOptimizerConfig(TuningOptimizerConfig):
    """AdamW, with a learning rate that suits what learns."""

    usual: ClassVar[Mapping[str, float]] = {"lora": 1e-4, "full": 1e-6}
    lr: float | None = None
    """Learning rate; by default 1e-4 for LoRA, 1e-6 for all weights (Llama 2)."""
    eps: float = 1e-5
    """Added to the root of the squared gradient's mean; 1e-5 in Llama 2."""


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """A run of PPO."""

    model: str = DEFAULT_MODEL
    """The policy as it begins: a known name, a folder (an adapter's too), a .gguf file or a hub id."""
    method: Literal["lora", "full"] = "lora"
    """lora: adapters over one frozen model; full: all weights, of which four sets are in memory."""
    prompts: PromptsConfig
    reward: RewardConfig
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: IterationsConfig = field(default_factory=IterationsConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: PpoOptimizerConfig = field(default_factory=PpoOptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(schedule="constant", warmup_steps=0))
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoints: KeepConfig = field(default_factory=KeepConfig)
    recompute: Recompute = "selective"
    """What the backward pass computes again instead of keeping it: none, selective (all but costly layers) or full."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: DTypeName = "auto"
    """In which to compute: bfloat16 on a GPU, float32 on a CPU. Weights and optimizer stay in float32."""
    seed: int = 0
    """Of adapters, of the prompts' order, of every sample."""
    trackers: tuple[Tracker, ...] = ()
    """Also log to tensorboard or wandb."""

    def __post_init__(self) -> None:
        if self.lora.dropout:
            raise ArrieroError("dropout: expected 0, as policies are compared token by token")
        if self.rollout.batch % self.objective.mini_batch:
            raise ArrieroError(
                f"mini_batch: expected a divisor of the batch of {self.rollout.batch}, got {self.objective.mini_batch}"
            )
        if self.parallel.tensor != 1:
            raise ArrieroError(f"tensor: expected 1 in PPO, got {self.parallel.tensor}: use shard")

    @property
    def steps_per_iteration(self) -> int:
        """Of the optimizer."""
        return self.objective.epochs * (self.rollout.batch // self.objective.mini_batch)


def _expect_count(name: str, value: int) -> None:
    if value < 1:
        raise ArrieroError(f"{name}: expected 1 or more, got {value}")
