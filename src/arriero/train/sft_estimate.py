"""What a run of fine-tuning will take on this machine: one micro-batch is computed, and the rest is arithmetic."""

import time
from dataclasses import dataclass

import torch

from arriero.common.device import pick_device, pick_dtype
from arriero.kernels.cross_entropy import IGNORED
from arriero.model.layers import set_recompute
from arriero.train.parallel import Layout
from arriero.train.pretrain import next_token_loss
from arriero.train.sft import Prepared, build_batches, build_model
from arriero.train.sft_config import SftConfig
from arriero.train.speed import keep_freed_memory
from arriero.train.watch import peak_memory


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of a whole run in one process."""

    steps: int
    seconds: float
    """Evaluations included, samples and checkpoints not."""
    memory_bytes: int
    """The most that the process, or the GPU, holds, with the longest micro-batch."""
    supervised_per_second: float
    """Tokens with a loss."""
    trained: int
    """Parameters that learn."""
    parameters: int
    """Of the model, those of an adapter included."""


def estimate(config: SftConfig, prepared: Prepared) -> Estimate:
    """Compute the run's longest micro-batch, forward and backward, twice, and scale it by tokens."""
    device = pick_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    layout = Layout(config.parallel, device, pick_dtype(config.dtype, device))
    try:
        model = layout.apply(build_model(config, prepared.loaded)).train()
        set_recompute(model, config.recompute)
        longest = build_batches(config, prepared, layout).largest
        supervised = int((longest.targets != IGNORED).sum())
        for _ in range(2):  # the first time allocates
            began = time.perf_counter()
            next_token_loss(model, longest).total.backward()  # type: ignore[no-untyped-call]
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
        each = seconds / longest.tokens.numel()
        epochs = prepared.loop.steps * config.training.batch / len(prepared.units)
        evaluations = 1 + prepared.loop.steps / prepared.loop.validate_every
        trained = sum(x.numel() for x in model.parameters() if x.requires_grad)
        return Estimate(
            steps=prepared.loop.steps,
            seconds=each * (epochs * prepared.census.tokens + evaluations * sum(map(len, prepared.held_out)) / 3),
            memory_bytes=peak_memory() + (12 * trained if config.method == "full" else 0),  # AdamW's part is to come
            supervised_per_second=supervised / seconds,
            trained=trained,
            parameters=model.n_params,
        )
    finally:
        layout.close()
