"""Small runs of the loop for the tests of layouts and checkpoints, on one process or on several that talk by gloo."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from arriero.kernels.cross_entropy import IGNORED
from arriero.kernels.documents import Documents
from arriero.model.choices import Recompute
from arriero.model.config import LlamaConfig
from arriero.model.transformer import Llama
from arriero.train.batch import Batch
from arriero.train.checkpoint import Checkpoints
from arriero.train.loop import Loop, Loss, StepResult
from arriero.train.loop_config import LoopConfig
from arriero.train.optimizer_config import OptimizerConfig
from arriero.train.parallel import Layout
from arriero.train.parallel_config import ParallelConfig
from arriero.train.schedule import ScheduleConfig
from tests.train.processes import launch_ranks

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
    sum_every: bool = False
    tied: bool = False
    recompute: Recompute = "none"
    schedule: Literal["cosine", "constant"] = "cosine"
    dtype: str = "float32"
    folder: str | None = None
    """Of the checkpoints."""
    checkpoint_every: int = 0
    kill_after: int | None = None
    """Kill -9 after this step."""
    interrupt_after: int | None = None
    """Ctrl-C on rank 1 after this step."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of the model's config that differ."""


@dataclass
class Notes:
    """What a rank noted of a run."""

    losses: dict[int, float] = field(default_factory=dict)
    norms: dict[int, float] = field(default_factory=dict)
    validation: dict[int, float] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    last: float = 0.0
    """Loss of the held-out rows at the end."""
    whole: float | None = None
    """The same by a copy of the whole model, on the main rank."""

    @staticmethod
    def of(line: str) -> "Notes":
        """As they were before they became JSON."""
        values = json.loads(line)
        steps = {name: {int(step): x for step, x in values[name].items()} for name in ("losses", "norms", "validation")}
        return Notes(**{**values, **steps})


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
    """Notes what happens, and may make it happen."""

    def __init__(self, run: Run, rank: int, validate: Callable[[], float]) -> None:
        self.run, self.rank, self.validate = run, rank, validate
        self.notes = Notes()

    def on_step(self, result: StepResult) -> None:
        self.notes.losses[result.step], self.notes.norms[result.step] = result.loss, result.grad_norm
        if result.step == self.run.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if result.step == self.run.interrupt_after and self.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def on_event(self, step: int, event: str, detail: str) -> None:
        self.notes.events.append(event)

    def on_validation(self, step: int) -> None:
        self.notes.validation[step] = self.validate()


def tiny_config(*, tied: bool = False, **changes: Any) -> LlamaConfig:
    """A model of two layers with grouped queries."""
    sizes = {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 64} | changes
    return LlamaConfig.of(tied_embeddings=tied, **sizes)


def mean_loss(model: Llama, batch: Batch) -> Loss:
    """The loss of pretraining."""
    total, losses = model.loss(batch.tokens, batch.targets, documents=batch.documents)
    assert losses.shape == batch.targets.shape
    return Loss(total, int((batch.targets != IGNORED).sum()), {"again": losses.sum()})


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch's threads cost more than they bring to a model this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def train(run: Run) -> Notes:
    """The run, on this process and those that `launch` started beside it."""
    config = ParallelConfig(**{option.name: getattr(run, option.name) for option in fields(ParallelConfig)})
    layout = Layout(config, "cpu", getattr(torch, run.dtype))
    model = layout.apply(Llama(tiny_config(tied=run.tied, **run.model)).init_weights(0))
    for layer in model.layers:
        layer.recompute = run.recompute
    held_out = next(Rows(0, 1, 1))

    @torch.no_grad()
    def validate(model: Llama = model) -> float:
        return float(mean_loss(model, held_out).total) / held_out.targets.numel()

    diary = Diary(run, layout.rank, validate)
    loop = Loop(
        model,
        Rows(layout.data_rank, layout.data_world, run.accumulation),
        mean_loss,
        config=LoopConfig(
            steps=run.steps, accumulation=run.accumulation, checkpoint_every=run.checkpoint_every, validate_every=10
        ),
        optimizer=OptimizerConfig(lr=3e-3),
        schedule=ScheduleConfig(schedule=run.schedule, warmup_steps=5),
        layout=layout,
        watcher=diary,
        store=Checkpoints(Path(run.folder), keep=100) if run.folder else None,
    )
    loop.resume()
    loop.run()
    diary.notes.last = validate()
    whole = layout.whole(model)
    if whole is not None:
        diary.notes.whole = validate(whole)
    return diary.notes


def launch(runs: Sequence[Run], world: int) -> list[list[Notes]]:
    """The runs, one after the other, on so many new processes: what each rank noted of each, nothing after a kill."""
    ranks = launch_ranks("-m", "tests.train.ranks", json.dumps([asdict(run) for run in runs]), world=world)
    noted = []
    for rank in ranks:
        if rank.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(f"a rank ended with {rank.returncode}: {rank.stderr[-3000:]}")
        noted.append([Notes.of(line) for line in rank.stdout.splitlines() if line.startswith("{")])
    return [list(of_all) for of_all in zip(*noted, strict=True)]


if __name__ == "__main__":
    for values in json.loads(sys.argv[1]):
        print(json.dumps(asdict(train(Run(**values)))), flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
