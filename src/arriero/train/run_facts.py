"""What a run's diary says of it at its start."""

import dataclasses
import platform
from importlib.metadata import version
from typing import Any

import torch

from arriero.common.machine import machine_facts
from arriero.model.transformer import Llama
from arriero.train.parallel import Layout


def run_facts(model: Llama, layout: Layout, *, batch_tokens: int | None, steps: int) -> dict[str, Any]:
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
