"""Small runs of the loop for the tests of layouts and checkpoints, on one process or on several that talk by gloo."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from arriero.kernels.cross_entropy import IGNORED
from arriero.kernels.documents import Documents
from arriero.model.config import LlamaConfig
from arriero.model.layers import Recompute
from arriero.model.transformer import Llama
from arriero.train.batch import Batch
from arriero.train.checkpoint import Checkpoints
from arriero.train.loop import Loop, LoopConfig, Loss, StepResult
from arriero.train.optimizer import OptimizerConfig
from arriero.train.parallel import Layout, ParallelConfig
from arriero.train.schedule import ScheduleConfig

ROWS, TOKENS = 8, 24
"""Of a step, over all ranks and micro-batches."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the loop."""

    steps: int = 20
    accumulation: int = 1
    replicate: int = 1
    shard: int = 0
    tensor: int = 1
    sequence: bool = True
    tied: bool = False
    recompute: Recompute = "none"
    dtype: str = "float32"
    folder: str | None = None
    """Of the checkpoints."""
    checkpoint_every: int = 0
    stop_after: int | None = None
    """End by `os._exit` after this step, as kill -9 does."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of the model's config that differ."""


class Rows:
    """Rows of a random walk in packed documents; any number of ranks sees the same global batches."""

    def __init__(self, rank: int, world: int, accumulation: int) -> None:
        self.rank, self.world, self.rows, self.drawn = rank, world, ROWS // (world * accumulation), 0

    def __iter__(self) -> "Rows":
        return self

    def __next__(self) -> Batch:
        first = self.drawn + self.rank * self.rows
        self.drawn += self.rows * self.world
        walks = []
        for row in range(first, first + self.rows):
            generator = torch.Generator().manual_seed(row)
            walks.append(torch.randint(1, 5, (TOKENS + 1,), generator=generator).cumsum(0) % 64)
        walk = torch.stack(walks)  # (B, T + 1)
        targets = walk[:, 1:].clone()
        bounds = [0]
        for row in range(self.rows):
            cut = 1 + (first + row) % (TOKENS - 1)
            targets[row, cut - 1] = IGNORED
            bounds += [row * TOKENS + cut, (row + 1) * TOKENS]
        documents = Documents.from_cu_seqlens(torch.tensor(bounds), self.rows, TOKENS)
        tokens = walk[:, :-1].contiguous()
        return Batch(tokens=tokens, targets=targets, documents=documents, sources=torch.zeros_like(tokens))

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


class Diary:
    """Notes each step's loss and gradient norm."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.norms: dict[int, float] = {}
        self.events: list[str] = []
        self.stop_after = stop_after

    def on_step(self, result: StepResult) -> None:
        self.losses[result.step], self.norms[result.step] = result.loss, result.grad_norm
        if result.step == self.stop_after:
            os._exit(9)

    def on_event(self, step: int, event: str, detail: str) -> None:
        self.events.append(event)

    def on_validation(self, step: int) -> None:
        """Nothing to validate."""


def tiny_config(*, tied: bool = False, **changes: Any) -> LlamaConfig:
    """A model of two layers with grouped queries."""
    sizes = {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 64} | changes
    return LlamaConfig.of(tied_embeddings=tied, **sizes)


def mean_loss(model: Llama, batch: Batch) -> Loss:
    """The loss of pretraining."""
    total, losses = model.loss(batch.tokens, batch.targets, documents=batch.documents)
    assert losses.shape == batch.targets.shape
    return Loss(total, int((batch.targets != IGNORED).sum()), {"again": losses.sum()})


def train(run: Run) -> Diary:
    """The run, on this process and those that `torchrun` or `launch` started beside it."""
    config = ParallelConfig(replicate=run.replicate, shard=run.shard, tensor=run.tensor, sequence=run.sequence)
    layout = Layout(config, "cpu", getattr(torch, run.dtype))
    model = Llama(tiny_config(tied=run.tied, **run.model)).init_weights(0)
    for layer in model.layers:
        layer.recompute = run.recompute
    diary = Diary(run.stop_after)
    loop = Loop(
        layout.apply(model),
        Rows(layout.data_rank, layout.data_world, run.accumulation),
        mean_loss,
        config=LoopConfig(steps=run.steps, accumulation=run.accumulation, checkpoint_every=run.checkpoint_every),
        optimizer=OptimizerConfig(lr=3e-3),
        schedule=ScheduleConfig(warmup_steps=5),
        layout=layout,
        watcher=diary,
        store=Checkpoints(Path(run.folder)) if run.folder else None,
    )
    loop.resume()
    loop.run()
    layout.close()
    return diary


def launch(run: Run, world: int) -> list[dict[str, Any]]:
    """The run on so many new processes; what each rank noted, empty for one that did not end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    processes = [_start(run, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(world)]
    outputs = [process.communicate(timeout=120) for process in processes]
    notes = []
    for process, (out, error) in zip(processes, outputs, strict=True):
        if process.returncode not in (0, 9):
            raise AssertionError(f"a rank ended with {process.returncode}: {error[-3000:]}")
        notes.append(json.loads(out.splitlines()[-1]) if process.returncode == 0 else {})
    return notes


def _start(run: Run, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.train.ranks", json.dumps(asdict(run))],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


if __name__ == "__main__":
    noted = train(Run(**json.loads(sys.argv[1])))
    print(json.dumps({"losses": noted.losses, "norms": noted.norms, "events": noted.events}))
