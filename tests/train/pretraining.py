"""What the tests of pretraining share: shards of bytes, a model of two layers, and a program to be killed.

python -m tests.train.pretraining RUN SHARDS [KILL_AFTER]
"""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arriero.model.config import LlamaConfig
from arriero.model.presets import PRESETS
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.loop_config import LoopConfig
from arriero.train.optimizer_config import OptimizerConfig
from arriero.train.pretrain import pretrain
from arriero.train.pretrain_config import DataConfig, PretrainConfig
from arriero.train.schedule import ScheduleConfig
from arriero.train.shards import ShardReader
from arriero.train.watch import RunWatcher
from tests.train.shard_folders import EOS, byte_tokenizer, write_shards

SHAPE = LlamaConfig.of(vocab_size=258, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=64)
"""What the tests' own preset, `two-layers`, is; the fixture of that name lends it."""
STEPS, CHECKPOINT_EVERY = 12, 4


def byte_shards(folder: Path, texts: Sequence[str], tokenizer: Tokenizer | None = None) -> ShardReader:
    """A folder of shards of these texts, with the tokenizer that made them."""
    tokenizer = byte_tokenizer() if tokenizer is None else tokenizer
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    backend = (folder / "tokenizer.json").read_text(encoding="utf-8")
    documents = [[*text.encode(), EOS] for text in texts]
    return write_shards(folder, documents, vocab_size=tokenizer.vocab_size, tokenizer=backend)


def write_source(folder: Path, word: str, seed: int = 0) -> Path:
    """A source of 40 documents of a word and random letters, and 4 for validation."""
    random = np.random.default_rng(seed)
    texts = [f"{word} " * int(random.integers(1, 12)) + "".join(random.choice(list("abc"), 20)) for _ in range(44)]
    byte_shards(folder / "validation", texts[40:])
    byte_shards(folder, texts[:40])
    return folder


def config_for(*shards: Path, **changes: Any) -> PretrainConfig:
    """A run of 12 steps; `changes` by the name of the field, wherever it is."""
    config = PretrainConfig(
        model="two-layers",
        data=DataConfig(shards=shards, rows=2, tokens=32, validation_rows=4),
        loop=LoopConfig(steps=STEPS, checkpoint_every=CHECKPOINT_EVERY, validate_every=6),
        optim=OptimizerConfig(lr=1e-2),
        schedule=ScheduleConfig(warmup_steps=3),
        device="cpu",
        samples=("llama",),
    )
    for name, value in changes.items():
        if name in {field.name for field in dataclasses.fields(config)}:
            config = dataclasses.replace(config, **{name: value})
            continue
        table = next(t for t in ("data", "loop", "optim", "checkpoints") if hasattr(getattr(config, t), name))
        config = dataclasses.replace(config, **{table: dataclasses.replace(getattr(config, table), **{name: value})})
    return config


def diary(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == kind]


def _kill_after(step: int) -> None:
    """Kill -9 once a step has been written down, and half of a line of the next."""
    whole = RunWatcher.on_step

    def on_step(self: RunWatcher, result: Any) -> None:
        whole(self, result)
        if result.step == step:
            assert self.log is not None
            with self.log.path.open("a", encoding="utf-8") as file:
                file.write('{"kind": "step", "st')
            os.kill(os.getpid(), signal.SIGKILL)

    RunWatcher.on_step = on_step  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    PRESETS["two-layers"] = SHAPE
    run, shards, *kill = sys.argv[1:]
    if kill:
        _kill_after(int(kill[0]))
    print(pretrain(Path(run), config_for(*map(Path, shards.split(",")), asynchronous=False)))
