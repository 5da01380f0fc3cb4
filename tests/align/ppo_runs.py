"""What the tests of PPO share: a base of two layers, a reward model over it, prompts, runs in processes of their own.

python -m tests.align.ppo_runs '[{"run": …, "base": …, "prompts": …, "reward": …, "changes": {…}, "kill": …}, …]'
"""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

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
from arriero.model.adapters import Adapters
from arriero.model.formats.peft import save_peft
from arriero.model.heads import SCORE, add_head
from arriero.model.lora import LowRank
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_model
from arriero.train.keep import KeepConfig
from arriero.train.parallel import Layout
from arriero.train.watch import RunWatcher

ITERATIONS = 3


def write_prompts(file: Path, count: int = 20) -> Path:
    """Questions of different lengths."""
    rows = [{"messages": [{"role": "user", "content": f"{n}?" + " why" * (n % 4)}]} for n in range(count)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def write_adapter(folder: Path, base: Path, *, head: bool = False, seed: int = 1, dropout: float = 0.0) -> Path:
    """An adapter that changes something, of a reward model if it has a head."""
    loaded = load_model(str(base), device="cpu", dtype="float32")
    Adapters.of(loaded.model).add("adapter", LoraConfig(rank=2, dropout=dropout), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for change in Adapters.of(loaded.model).changes("adapter").values():
        assert isinstance(change, LowRank)
        change.b.data.normal_(0.0, 0.1, generator=generator)
    if head:
        add_head(loaded.model, SCORE, seed=seed)
    save_peft(loaded.model, "adapter", folder, base=str(base), head=SCORE if head else None)
    loaded.tokenizer.save(folder)
    return folder


def config_for(base: Path, prompts: Path, reward: str | Path, **changes: Any) -> PpoConfig:
    """A run of 3 iterations of 8 answers, two steps each; `changes` by the name of the field, wherever it is."""
    config = PpoConfig(
        model=str(base),
        prompts=PromptsConfig(prompts=(prompts,), eval_share=0.2, eval_count=4),
        reward=RewardConfig(reward=str(reward)),
        rollout=RolloutConfig(batch=8, max_tokens=8, decode_rows=8),
        objective=ObjectiveConfig(mini_batch=4, max_kl=None),
        training=IterationsConfig(iterations=ITERATIONS, rows=2, validate_every=2, checkpoint_every=1),
        lora=LoraConfig(rank=2),
        optim=PpoOptimizerConfig(lr=1e-2),
        checkpoints=KeepConfig(asynchronous=False),
        device="cpu",
    )
    tables = ("prompts", "reward", "rollout", "objective", "training", "optim", "checkpoints", "lora")
    for name, value in changes.items():
        table = next((t for t in tables if hasattr(getattr(config, t), name)), None)
        if table is not None:
            value, name = dataclasses.replace(getattr(config, table), **{name: value}), table
        config = dataclasses.replace(config, **{name: value})
    return config


def strike_after(step: int, number: signal.Signals) -> None:
    """Send this process a signal once a step has been written down."""
    whole = RunWatcher.on_step

    def on_step(self: RunWatcher, result: Any) -> None:
        whole(self, result)
        if result.step == step:
            os.kill(os.getpid(), number)

    RunWatcher.on_step = on_step  # type: ignore[method-assign]


def _main(runs: list[Mapping[str, Any]]) -> None:
    """Say each run's end."""
    torch.set_num_threads(1)
    close = Layout.close
    Layout.close = lambda self: None  # type: ignore[method-assign]  # the runs share their processes
    for run in runs:
        if run.get("kill"):
            strike_after(run["kill"], signal.SIGKILL)
        config = config_for(Path(run["base"]), Path(run["prompts"]), run["reward"], **run.get("changes", {}))
        print(ppo(Path(run["run"]), config), flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    Layout.close = close  # type: ignore[method-assign]


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
