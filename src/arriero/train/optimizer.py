"""AdamW as LLaMA sets it (LLaMA, arXiv 2302.13971, section 2.3), and the clipping of gradients before it."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from arriero.common.errors import ArrieroError
from arriero.train.optimizer_config import OptimizerConfig


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, factors: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """AdamW over the parameters that require gradients; only matrices decay.

    Args:
        factors: of the learning rate of the parameters whose names begin so; 1 of all others. They are kept as
            `factor` in the optimizer's groups, for whoever sets the rate.

    Raises:
        ArrieroError: nothing in the model requires gradients.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise ArrieroError("the model has no parameter that requires gradients: nothing to train")
    parts: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained:
        factor = next((value for start, value in (factors or {}).items() if name.startswith(start)), 1.0)
        parts.setdefault((factor, config.weight_decay if parameter.dim() >= 2 else 0.0), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (factor, decay), parameters in sorted(parts.items(), key=lambda part: (-part[0][0], -part[0][1]))
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], count: float, clip: float) -> Tensor:
    """Divide summed gradients by `count`, then clip them; returns the norm between the two, fp32.

    One pass for both: the gradients of a step are sums over its tokens, whose number is known only when all
    micro-batches and ranks are in.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    own = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    norm = _total_norm(gradients, own) / count
    factor = torch.clamp(clip / (norm + 1e-6), max=1.0) / count
    torch._foreach_mul_(own, factor)
    return norm


def _total_norm(gradients: list[Tensor], own: list[Tensor]) -> Tensor:
    """Norm of all gradients together, of which `own` are this rank's parts: one sum over all ranks, not one each."""
    if not any(isinstance(gradient, DTensor) for gradient in gradients):
        return torch.nn.utils.get_total_norm(gradients)
    holders = [_holders(gradient) for gradient in gradients]
    norms = torch.stack(torch._foreach_norm(own)).float()  # (gradients,)
    square = (norms.square() / torch.tensor(holders, device=norms.device)).sum()
    torch.distributed.all_reduce(square)
    return square.sqrt()


def _holders(gradient: Tensor) -> int:
    """How many ranks hold the same part of a gradient."""
    if not isinstance(gradient, DTensor):
        return torch.distributed.get_world_size()
    mesh = gradient.device_mesh
    return math.prod(mesh.size(dim) for dim, placed in enumerate(gradient.placements) if placed.is_replicate())
