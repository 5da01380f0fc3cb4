"""The settings of an alignment in rounds: who answers, who compares, what learns, who measures."""

from dataclasses import dataclass, field
from pathlib import Path

from arriero.align.ppo_config import IterationsConfig, ObjectiveConfig, PpoOptimizerConfig, RolloutConfig
from arriero.align.rejection_config import DrawConfig
from arriero.align.reward_config import RewardLossConfig
from arriero.common.errors import ArrieroError
from arriero.model.choices import DEFAULT_MODEL
from arriero.model.lora_config import LoraConfig
from arriero.train.sft_config import EpochsConfig, SftOptimizerConfig


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """How new pairs come about."""

    pairs: int = 64
    """New pairs a round, of as many prompts."""
    temperature: float = 0.7
    """Of the newest version's answers."""
    temperature_b: float = 1.2
    """Of the version's before it, which gives the other answer; in the first round there is one version alone."""
    answer_tokens: int = 128
    """Most tokens of an answer that is compared or measured."""
    judge: str | None = None
    """Who compares: a reward model's folder, rule:NAME or command:PROGRAM; default: people, for whom the run waits."""
    safety_judge: str | None = None
    """Who tells which answers to safety prompts are safe, likewise."""

    def __post_init__(self) -> None:
        for name in ("pairs", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ArrieroError(f"{name}: expected 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """How versions are measured."""

    eval_share: float = 0.2
    """Share of the prompts that is held out of everything, to measure versions on."""
    eval_count: int = 64
    """Held-out prompts that are answered, at most."""
    referee: str | None = None
    """Who scores versions, where it is not to be the newest helpfulness reward model: rule:NAME, command:PROGRAM, or
    another reward model, which none of the versions learnt from."""

    def __post_init__(self) -> None:
        if not 0 < self.eval_share < 1:
            raise ArrieroError(f"eval_share: expected a share between 0 and 1, got {self.eval_share}")
        if self.eval_count < 1:
            raise ArrieroError(f"eval_count: expected 1 or more, got {self.eval_count}")


@dataclass(frozen=True, kw_only=True)
class PpoStageConfig:
    """PPO after the last round's rejection sampling, as Llama 2's fifth version had it."""

    ppo: bool = False
    """After the last round's rejection sampling, go on with PPO on the version that it made."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: IterationsConfig = field(default_factory=IterationsConfig)
    optim: PpoOptimizerConfig = field(default_factory=PpoOptimizerConfig)


@dataclass(frozen=True, kw_only=True)
class IterateConfig:
    """An alignment in rounds."""

    model: str = DEFAULT_MODEL
    """The first version, a fine-tuned chat model: a known name, a folder or a hub id."""
    prompts: tuple[Path, ...]
    """Files of prompts: JSON lines of prompt or messages, a file of preferences, or text with a prompt a line."""
    safety_prompts: tuple[Path, ...] = ()
    """Files of prompts whose answers are judged by their safety."""
    preferences: Path | None = None
    """The file of preferences that grows, and may hold some already; default: preferences.sqlite in RUN."""
    rounds: int = 2
    """Rounds; raised later, the same run goes on."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    reward: EpochsConfig = field(default_factory=lambda: EpochsConfig(epochs=1.0, patience=0))
    reward_loss: RewardLossConfig = field(default_factory=RewardLossConfig)
    draw: DrawConfig = field(default_factory=lambda: DrawConfig(max_tokens=128))
    tuning: EpochsConfig = field(default_factory=EpochsConfig)
    tuning_optim: SftOptimizerConfig = field(default_factory=SftOptimizerConfig)
    last: PpoStageConfig = field(default_factory=PpoStageConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    device: str = "auto"
    """auto, cpu or cuda."""
    seed: int = 0
    """Of the prompts' order, of every answer, of all training."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ArrieroError(f"rounds: expected 1 or more, got {self.rounds}")
