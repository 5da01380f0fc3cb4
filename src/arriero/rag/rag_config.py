"""The settings of end-to-end training: which questions over which documents, what of the two models learns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from arriero.common.device import DTypeName
from arriero.common.errors import ArrieroError
from arriero.model.choices import DEFAULT_MODEL, Quantisation, Recompute
from arriero.model.lora_config import LoraConfig
from arriero.rag.questions import QuestionFormat
from arriero.train.keep import KeepConfig
from arriero.train.optimizer_config import TuningOptimizerConfig
from arriero.train.parallel_config import ParallelConfig
from arriero.train.run_log import Tracker
from arriero.train.schedule import ScheduleConfig
from arriero.train.sft_config import EpochsConfig


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig:
    """Which questions."""

    questions: tuple[Path, ...]
    """Files of questions and answers: SQuAD's or DPR's JSON, or JSON lines; repeat the option."""
    format: QuestionFormat | None = None
    """What the files are: squad, dpr or jsonl; default: what each looks like."""
    eval_share: float = 0.1
    """Share of the questions that is held out, by title."""
    eval_questions: tuple[Path, ...] = ()
    """Files of questions to measure on, instead of a share."""

    def __post_init__(self) -> None:
        if not self.questions:
            raise ArrieroError("no questions given: expected --questions FILE")
        if not 0 <= self.eval_share < 1:
            raise ArrieroError(f"eval_share: expected a share from 0 up to 1, got {self.eval_share}")


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """How documents are found while training."""

    k: int = 5
    """Documents of each question; 5 or 10 in the paper."""
    freeze_retriever: bool = False
    """Train the generator alone."""
    scale: float | None = None
    """Length of the query vectors, by which p(z|x) sharpens; default: 1, as in the paper, and 20 for encoders whose
    vectors have length 1."""
    reencode_every: int = 0
    """Steps between encodings of all passages anew, with an encoder whose two sides are one; 0: never, as in the paper.
    What comes out is an encoder for both sides: see `rag reencode`."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ArrieroError(f"k: expected 1 or more, got {self.k}")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise ArrieroError(f"scale: expected a number above 0, got {self.scale}")
        if self.reencode_every < 0:
            raise ArrieroError(f"reencode_every: expected 0 or more, got {self.reencode_every}")
        if self.reencode_every and self.freeze_retriever:
            raise ArrieroError("reencode_every: a frozen retriever encodes passages as it did: leave one of them out")


@dataclass(frozen=True, kw_only=True)
class RagOptimizerConfig(TuningOptimizerConfig):
    """Adam, as in the paper: AdamW without decay."""

    usual: ClassVar[Mapping[str, float]] = {"lora": 2e-4, "full": 3e-5}
    lr: float | None = None
    """Peak of the generator's learning rate; by default 2e-4 for LoRA, 3e-5 for all weights."""
    beta2: float = 0.999
    """Decay of the squared gradient's running mean."""
    weight_decay: float = 0.0
    """Share of lr by which a matrix shrinks each step."""


@dataclass(frozen=True, kw_only=True)
class RagTrainConfig:
    """A run of end-to-end training."""

    kind: Literal["sequence", "token"] = "sequence"
    """RAG-Sequence: one document stands behind the whole answer; RAG-Token: each token may lean on another one."""
    model: str = DEFAULT_MODEL
    """The generator to begin with: a known name, a folder (an encoder-decoder of transformers too), a .gguf file."""
    method: Literal["lora", "full"] = "lora"
    """What of the generator learns: lora, an adapter beside the frozen weights; full, all weights."""
    quantise: Quantisation = "none"
    """Keep the generator's frozen weights in few bits (QLoRA): nf4 or int8."""
    collection: Path = Path(".arriero/documents")
    """Folder of the documents; `rag add` makes it."""
    query_encoder: Path | None = None
    """A query encoder to begin with, that was trained for the collection; default: the collection's own."""
    questions: QuestionsConfig
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    retriever_lr: float = 1e-5
    """Peak of the query encoder's learning rate."""
    training: EpochsConfig = field(default_factory=EpochsConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: RagOptimizerConfig = field(default_factory=RagOptimizerConfig)
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
    """Of the adapter's first weights, of what is held out and of the questions' order."""
    trackers: tuple[Tracker, ...] = ()
    """Also log to tensorboard or wandb."""

    def __post_init__(self) -> None:
        if self.quantise != "none" and self.method == "full":
            raise ArrieroError(f"quantise: {self.quantise} weights do not learn: expected --method lora beside it")
        if not 0 < self.retriever_lr < float("inf"):
            raise ArrieroError(f"retriever_lr: expected a number above 0, got {self.retriever_lr}")
        if self.parallel.tensor != 1:
            raise ArrieroError("tensor: the two models of RAG are not divided: share the work by --shard")
