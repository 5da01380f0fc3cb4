"""What trains, in one place: each function with the settings that it takes, as the command of its name takes them.

A run is a folder. The same call continues it after an interruption, and refuses other settings than it was begun with.

| function | command | makes |
|---|---|---|
| `pretrain(run, PretrainConfig)` | `arriero pretrain` | a base model from token shards |
| `sft(run, SftConfig)` | `arriero sft` | a model, or an adapter, that answers like examples |
| `train_reward(run, RewardModelConfig)` | `arriero align reward` | a reward model from comparisons |
| `reject(run, RejectionConfig)` | `arriero align reject` | the best of K answers, and a model tuned on them |
| `ppo(run, PpoConfig)` | `arriero align ppo` | a model whose answers a reward model prefers |
| `iterate(run, IterateConfig)` | `arriero align iterate` | versions, in rounds of all of these |
| `distil(folder, DistilConfig)` | `arriero align distil` | examples of safer answers |
| `make_ghost_examples(folder, GhostConfig)` | `arriero align ghost` | examples that keep to an instruction |
| `train_retriever(run, RetrieverConfig)` | `arriero rag retriever` | an encoder that finds your documents' answers |
| `train_rag(run, RagTrainConfig)` | `arriero rag train` | query encoder and generator, taught together |

>>> from pathlib import Path
>>> from arriero.training import EpochsConfig, ExamplesConfig, SftConfig, sft
>>> settings = SftConfig(
...     examples=ExamplesConfig(data=(Path("examples.jsonl"),)), training=EpochsConfig(steps=2, batch=2)
... )
>>> sft(Path("runs/style"), settings)
'finished'
>>> from arriero import Model
>>> styled = Model.load("smollm2-135m-instruct").with_adapter("runs/style/adapter")
"""

from arriero.align.distil import distil
from arriero.align.distil_config import DistilConfig
from arriero.align.ghost import make_ghost_examples
from arriero.align.ghost_config import GhostConfig
from arriero.align.iterate import iterate
from arriero.align.iterate_config import CollectConfig, IterateConfig, MeasureConfig, PpoStageConfig
from arriero.align.ppo import ppo
from arriero.align.ppo_config import (
    IterationsConfig,
    ObjectiveConfig,
    PpoConfig,
    PpoOptimizerConfig,
    PromptsConfig,
    RewardConfig,
    RolloutConfig,
)
from arriero.align.rejection_config import DrawConfig, RejectionConfig
from arriero.align.rejection_run import reject
from arriero.align.reward_config import (
    ComparisonsConfig,
    RewardLossConfig,
    RewardModelConfig,
    RewardOptimizerConfig,
    RewardScheduleConfig,
)
from arriero.align.reward_train import train_reward
from arriero.model.lora_config import LoraConfig
from arriero.rag.rag_config import QuestionsConfig, RagOptimizerConfig, RagTrainConfig, RetrievalConfig
from arriero.rag.rag_train import train_rag
from arriero.rag.retriever_config import RetrieverConfig, RetrieverOptimizerConfig
from arriero.rag.retriever_train import train_retriever
from arriero.train.keep import KeepConfig
from arriero.train.loop_config import LoopConfig
from arriero.train.optimizer_config import OptimizerConfig
from arriero.train.parallel_config import ParallelConfig
from arriero.train.pretrain import pretrain
from arriero.train.pretrain_config import DataConfig, PretrainConfig
from arriero.train.schedule import ScheduleConfig
from arriero.train.sft import sft
from arriero.train.sft_config import EpochsConfig, ExamplesConfig, SftConfig, SftOptimizerConfig

__all__ = [
    "CollectConfig", "ComparisonsConfig", "DataConfig", "DistilConfig", "DrawConfig", "EpochsConfig", "ExamplesConfig",
    "GhostConfig", "IterateConfig", "IterationsConfig", "KeepConfig", "LoopConfig", "LoraConfig", "MeasureConfig",
    "ObjectiveConfig", "OptimizerConfig", "ParallelConfig", "PpoConfig", "PpoOptimizerConfig", "PpoStageConfig",
    "PretrainConfig", "PromptsConfig", "QuestionsConfig", "RagOptimizerConfig", "RagTrainConfig", "RejectionConfig",
    "RetrievalConfig", "RetrieverConfig", "RetrieverOptimizerConfig", "RewardConfig", "RewardLossConfig",
    "RewardModelConfig", "RewardOptimizerConfig", "RewardScheduleConfig", "RolloutConfig", "ScheduleConfig",
    "SftConfig", "SftOptimizerConfig", "distil", "iterate", "make_ghost_examples", "ppo", "pretrain", "reject", "sft",
    "train_rag", "train_retriever", "train_reward",
]  # fmt: skip
