"""The start of a run, or its resumption: the last checkpoint is taken up, and the diary says what is trained."""

import dataclasses
import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Protocol

import torch
from torch import nn

from arriero.common.machine import machine_facts
from arriero.model.config import LlamaConfig
from arriero.train.loop import Loop
from arriero.train.parallel import Layout
from arriero.train.run_folder import RunFolder
from arriero.train.run_log import RunLog


@dataclasses.dataclass(frozen=True)
class NetworkShape:
    """What the diary says of a network that is no LLaMA."""

    kind: str
    vocab_size: int
    dim: int
    tied_embeddings: bool = True


class Described(Protocol):
    """A model that the diary tells of."""

    @property
    def config(self) -> LlamaConfig | NetworkShape: ...
    @property
    def n_params(self) -> int: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


def take_up(
    loop: Loop[Any, Any], folder: RunFolder, config: Any, log: RunLog | None, *, batch_tokens: int | None, **facts: Any
) -> bool:
    """Resume a loop where its folder has a checkpoint, and begin folder and diary. Whether there was one.

    Args:
        config: of the run.
        log: the diary, on the main rank.
        batch_tokens: of a step, where that is fixed.
        facts: more to say of the run.
    """
    resumed = loop.resume()
    if log is not None:
        folder.begin(config)  # not before: a checkpoint that cannot be taken up leaves the folder as it was
        if not resumed:
            log.forget_after(-1)  # of a run that was killed before its first checkpoint
        told = run_facts(loop.model, loop.layout, batch_tokens=batch_tokens, steps=loop.config.steps)
        log.write("start", loop.step, **told, **facts)
    return resumed


def run_facts(model: Described, layout: Layout, *, batch_tokens: int | None, steps: int) -> dict[str, Any]:
    """Shape, sizes, devices, layout and versions.

    Args:
        batch_tokens: of a step, where that is fixed.
        steps: of the run.
    """
    machine = machine_facts(layout.device)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    embeddings = model.config.vocab_size * model.config.dim * (1 if model.config.tied_embeddings else 2)
    return {
        "model": dataclasses.asdict(model.config),
        "n_params": model.n_params,
        "n_params_without_embeddings": model.n_params - embeddings,
        "n_params_trained": trained,
        "devices": layout.world,
        "device_name": machine.get("gpu", machine["processor"]),
        "world": layout.world,
        "dtype": str(layout.dtype).removeprefix("torch."),
        "batch_tokens": batch_tokens,
        "layout": dataclasses.asdict(layout.config),
        "total_steps": steps,
        "watts": None,
        "versions": {"arriero": version("arriero"), "torch": torch.__version__, "python": platform.python_version()},
    }
