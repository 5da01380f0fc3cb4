"""Matrices divided among ranks that see the same rows (Megatron-LM, Shoeybi et al., arXiv 1909.08053, section 3).

A block's first matrices (wq, wk, wv, w1, w3) are divided by output, its second ones (wo, w2) by input, so that between
them each rank has heads, and hidden units, of its own; what the second ones put out is summed over the ranks. With
sequence parallelism (Korthikanti et al., arXiv 2205.05198, section 4.2.2) each rank gets that sum for its own part of
the tokens, and does the norms and the residual stream for those alone.

Parameters are DTensors; between the matrices all tensors are plain, so that every kernel works as on one rank.
Embedding and output are divided by vocabulary. Deviation from Megatron-LM: for the loss the output matrix is gathered,
and each rank takes the losses of its own tokens, through the same chunked cross-entropy as on one rank. The inputs of
the matrices are DTensors too, which `kernels.recompute` leaves alone: here `selective` keeps what `none` keeps.

B batch, T tokens, t tokens of this rank, C model dim, V vocabulary.
"""

from types import MethodType
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import cross_entropy
from arriero.kernels.documents import Documents
from arriero.model.guests import Guests
from arriero.model.lora import LowRank
from arriero.model.quantised import QuantisedLinear
from arriero.model.transformer import Llama


def split_model(model: Llama, mesh: DeviceMesh, *, sequence: bool) -> None:
    """Divide the model's matrices among the ranks of `mesh`, and between them the tokens, if `sequence`.

    Raises:
        ArrieroError: the model has scalar heads, which cannot be divided.
    """
    stream: Placement = Shard(1) if sequence else Replicate()
    gather = PrepareModuleInput(
        input_layouts=(stream, None, None, None), desired_input_layouts=(Replicate(), None, None, None)
    )
    plan: dict[str, ParallelStyle] = {
        "tok_embeddings": RowwiseParallel(input_layouts=Replicate(), output_layouts=stream),
        "norm": _Norm(stream),
        "output": ColwiseParallel(input_layouts=stream, output_layouts=Replicate()),
    }
    block: dict[str, ParallelStyle] = {
        "attention_norm": _Norm(stream),
        "attention": gather,
        "attention.wo": RowwiseParallel(output_layouts=stream),
        "ffn_norm": _Norm(stream),
        "feed_forward": PrepareModuleInput(input_layouts=(stream,), desired_input_layouts=(Replicate(),)),
        "feed_forward.w2": RowwiseParallel(output_layouts=stream),
    }
    for name in ("attention.wq", "attention.wk", "attention.wv", "feed_forward.w1", "feed_forward.w3"):
        block[name] = ColwiseParallel()
    plan |= {f"layers.{i}.{name}": style for i in range(model.config.n_layers) for name, style in block.items()}
    if len(model.heads):
        raise ArrieroError("tensor: a model with scalar heads cannot be divided: share the work by --shard")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    guests = _set_adapters_aside(model, plan)
    parallelize_module(model, mesh, plan)
    for name, own in guests.items():
        model.get_submodule(name).adapters = own
        _split_adapters(own, mesh, by_output=isinstance(plan[name], ColwiseParallel))
    model.tie_weights()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)  # PyTorch's style for the norms makes parameters that learn

    def loss(
        self: Llama,
        tokens: Tensor,
        targets: Tensor,
        *,
        documents: Documents | None = None,
        token_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        if sequence and tokens.shape[1] % mesh.size():
            raise ArrieroError(f"expected rows of a multiple of {mesh.size()} tokens, got {tokens.shape[1]}")
        return _loss(self, mesh, stream, tokens, targets, documents, token_weights)

    model.loss = MethodType(loss, model)  # type: ignore[method-assign]


def _set_adapters_aside(model: Llama, plan: dict[str, ParallelStyle]) -> dict[str, Guests]:
    """Take the adapters from the modules that have any, by their names: PyTorch's styles divide all that is in there.

    Raises:
        ArrieroError: an adapter changes what cannot be divided.
    """
    guests = {}
    for name, module in model.named_modules():
        if isinstance(own := getattr(module, "adapters", None), Guests):
            low_rank = [change for change in own.values() if isinstance(change, LowRank)]
            plain = len(low_rank) == len(own) and all(x.magnitude is None and not x.dropout for x in low_rank)
            if not (plain and name.startswith("layers.") and name in plan):
                raise ArrieroError(
                    f"tensor: the adapter of {name} cannot be divided: expected LoRA of the layers' matrices, without "
                    "dora, dropout and whole; or share the work by --shard"
                )
            guests[name] = own
    for name in guests:
        del model.get_submodule(name).adapters
    if quantised := [name for name, module in model.named_modules() if isinstance(module, QuantisedLinear)]:
        raise ArrieroError(f"tensor: {quantised[0]} is quantised and cannot be divided: share the work by --shard")
    return guests


def _split_adapters(guests: Guests, mesh: DeviceMesh, *, by_output: bool) -> None:
    """Divide A and B as their matrix is: by output, B's rows; by input, A's columns. The other is whole everywhere."""
    for change in guests.values():
        for name, parameter in list(change.named_parameters()):
            outer = name.endswith("b") if by_output else name.endswith("a")
            placed = Shard(0 if by_output else 1) if outer else Replicate()
            divided = nn.Parameter(distribute_tensor(parameter.detach(), mesh, [placed]), parameter.requires_grad)
            setattr(change, name, divided)


def _loss(
    model: Llama,
    mesh: DeviceMesh,
    stream: Placement,
    tokens: Tensor,
    targets: Tensor,
    documents: Documents | None,
    token_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`Llama.loss`, each rank that of its own tokens, and the same results on all of them."""
    hidden = model.hidden(tokens, documents=documents).flatten(0, 1)  # (B·t, C)
    split = stream.is_shard()

    def own(x: Tensor) -> Tensor:
        return (x.chunk(mesh.size(), dim=1)[mesh.get_local_rank()] if split else x).flatten()  # (B·t,)

    matrix = cast(DTensor, model.output.weight).redistribute(placements=[Replicate()])
    whole = matrix.to_local(grad_placements=[Partial() if split else Replicate()])  # (V, C)
    weights = None if token_weights is None else own(token_weights)
    total, losses = cross_entropy(hidden, whole, own(targets), weights)
    losses = losses.view(len(tokens), -1)  # (B, t)
    if split:
        total = _SumOverRanks.apply(total, mesh.get_group())  # type: ignore[no-untyped-call]
        losses = DTensor.from_local(losses, mesh, [stream]).full_tensor()  # (B, T)
    return total, losses


class _SumOverRanks(torch.autograd.Function):
    """The sum of what the ranks have; each rank's part has the slope of the sum."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = part.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Norm(SequenceParallel):
    """A norm of this rank's tokens, its weight the same on all ranks."""

    def __init__(self, stream: Placement) -> None:
        super().__init__(use_local_output=True)
        self.sequence_sharding = (stream,)  # type: ignore[assignment]
