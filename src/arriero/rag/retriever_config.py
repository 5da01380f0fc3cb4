"""The settings of a retriever's training: which questions over which documents, what of it learns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from arriero.common.errors import ArrieroError
from arriero.rag.rag_config import QuestionsConfig
from arriero.train.keep import KeepConfig
from arriero.train.optimizer_config import TuningOptimizerConfig
from arriero.train.parallel_config import ParallelConfig
from arriero.train.run_log import Tracker
from arriero.train.schedule import ScheduleConfig
from arriero.train.sft_config import EpochsConfig

Sides = Literal["query", "both"]


@dataclass(frozen=True, kw_only=True)
class RetrieverOptimizerConfig(TuningOptimizerConfig):
    """AdamW, with a learning rate that suits what learns."""

    usual: ClassVar[Mapping[str, float]] = {"query": 2e-5, "both": 2e-5}
    lr: float | None = None
    """Peak of the learning rate; by default 2e-5 (DPR's)."""
    beta2: float = 0.999
    """Decay of the squared gradient's running mean."""
    weight_decay: float = 0.01
    """Share of lr by which a matrix shrinks each step."""

    def __post_init__(self) -> None:
        self.resolve("query")


@dataclass(frozen=True, kw_only=True)
class RetrieverConfig:
    """A run that trains a retriever."""

    collection: Path = Path(".arriero/documents")
    """Folder of the documents; `rag add` makes it. Its encoder is what is trained on."""
    query_encoder: Path | None = None
    """A query encoder to begin with, that was trained for the collection; default: the collection's own."""
    questions: QuestionsConfig
    sides: Sides = "query"
    """query: the query encoder alone, which goes on finding the passages as they are encoded; both: passages too, which
    then are to be encoded anew (`rag reencode`)."""
    negatives: int = 4
    """Hard negatives of each question, from BM25 and from the index."""
    scale: float | None = None
    """By what inner products are multiplied; default: 1, as in DPR, and 20 for encoders whose vectors have length 1."""
    training: EpochsConfig = field(default_factory=lambda: EpochsConfig(epochs=3.0, batch=32))
    optim: RetrieverOptimizerConfig = field(default_factory=RetrieverOptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup_steps=10))
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoints: KeepConfig = field(default_factory=KeepConfig)
    device: str = "auto"
    """auto, cpu or cuda."""
    seed: int = 0
    """Of what is held out and of the questions' order."""
    trackers: tuple[Tracker, ...] = ()
    """Also log to tensorboard or wandb."""

    def __post_init__(self) -> None:
        if self.negatives < 0:
            raise ArrieroError(f"negatives: expected 0 or more, got {self.negatives}")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise ArrieroError(f"scale: expected a number above 0, got {self.scale}")
        if self.training.rows is not None:
            raise ArrieroError("rows: the loss is over all passages of a batch, which is not divided: lower --batch")
        if self.parallel.tensor != 1:
            raise ArrieroError("tensor: an encoder is not divided: share the work by --shard")
