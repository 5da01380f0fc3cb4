"""How the processes of a run share the work (LLaMA, arXiv 2302.13971, section 2.4).

`torchrun` starts the processes; they form a mesh of three dimensions, replicate × shard × tensor, the last one the
innermost, so that tensor-parallel neighbours sit on one machine. Over replicate × shard every rank sees rows of its
own: within `shard` each holds a part of every parameter, gradient and optimizer state (PyTorch's FSDP2, after ZeRO,
Rajbhandari et al., arXiv 1910.02054), and whole such groups are repeated `replicate` times. Over `tensor` ranks share
the rows and divide the matrices: see `tensor_parallel.py`.

Gradients are summed, never averaged: the loop divides them by the tokens of the whole step. FSDP2 gathers the next
block's parameters, and reduces the last one's gradients, while this one computes: so communication and computation
overlap. The order is set here, one block ahead, so that the gathering is asked for before this block's computation is.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from arriero.common.device import DTypeName, pick_device, pick_dtype
from arriero.common.errors import ArrieroError
from arriero.model.adapters import copy_adapters
from arriero.model.heads import copy_heads
from arriero.model.quantised import QuantisedLinear
from arriero.model.transformer import Llama
from arriero.train.parallel_config import ParallelConfig, check_divisible
from arriero.train.speed import keep_freed_memory
from arriero.train.tensor_parallel import split_model

_T = TypeVar("_T")


class Layout:
    """This process's place among those of the run: 1 without `torchrun`."""

    def __init__(
        self,
        config: ParallelConfig | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Join the processes that `torchrun` started, if it did.

        Args:
            config: how many processes share what.
            device: the kind of device; of several GPUs each process takes the one of its number on the machine.
            dtype: of the computation; parameters, reduced gradients and optimizer states are fp32 in any case.

        Raises:
            ArrieroError: the numbers do not multiply to the number of processes, or device and dtype do not suit.
        """
        self.config = config or ParallelConfig()
        self.dtype = dtype
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        shard = self.config.shards(self.world)
        self.device = torch.device(device)
        if dtype not in (torch.float32, torch.bfloat16):
            raise ArrieroError(f"dtype: expected float32 or bfloat16 (float16 needs scaled losses), got {dtype}")
        if self.device.type == "cuda":
            if self.world > 1 or self.device.index is None:
                self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
        elif self.device.type != "cpu" and (self.world > 1 or dtype != torch.float32):
            raise ArrieroError(f"device {self.device.type}: expected one process and float32 there")
        self.data_rank, self.data_world = self.rank // self.config.tensor, self.config.replicate * shard
        """This process among those that see different rows, and their number."""
        self._joined = self.world > 1 or dtype != torch.float32
        if self._joined:
            self._join()
            shape = (self.config.replicate, shard, self.config.tensor)
            self._mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("replicate", "shard", "tensor"))
            self._data_group = self._mesh["replicate", "shard"]._flatten("data").get_group()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes logs."""
        return self.rank == 0

    @property
    def plain(self) -> bool:
        """Whether the model computes as it is: one process, in fp32."""
        return not self._joined

    def apply(self, model: Llama) -> Llama:
        """The model, changed in place to compute as the layout says, on its device; the optimizer is built after this.

        Every process must bring the same weights. One process without mixed precision computes as it is.

        Raises:
            ArrieroError: the model's sizes cannot be divided by `tensor`.
        """
        check_divisible(model.config, self.config.tensor)
        if self.plain:
            return model.to(self.device)
        if self.config.tensor > 1:
            split_model(model, self._mesh["tensor"], sequence=self.config.sequence)
        self._shard(model)
        return model

    def apply_whole(self, module: nn.Module) -> None:
        """A small module that learns beside the model, in place and in fp32: one group of parameters, by FSDP2."""
        if self.plain:
            module.to(self.device)
            return
        fully_shard(module, mesh=self._data_mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
        sharded = cast(FSDPModule, module)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other

    def whole(self, model: Llama) -> Llama | None:
        """A copy of model, adapters and heads as they are now, fp32 and on the CPU, on the main process; else None."""
        return _copy(model, wanted=self.is_main)

    def replica(self, model: Llama) -> Llama:
        """A copy as of `whole` on every process, on its device and in the dtype of the computation: to generate with.

        The model itself, where it computes as it is.
        """
        if self.plain:
            return model
        copy = _copy(model, wanted=True)
        assert copy is not None
        return copy.requires_grad_(False).to(self.device, self.dtype).eval()

    def synchronize_gradients(self, model: nn.Module, *, last: bool) -> None:
        """Before a micro-batch: gradients are summed over ranks in a step's last one, or with `sum_every` in each."""
        if self._joined:
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    module.set_requires_gradient_sync(last or self.config.sum_every, recurse=False)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the ranks that see different data."""
        if self._joined and self.data_world > 1:
            dist.all_reduce(values, group=self._data_group)
        return values

    def gather(self, own: _T) -> list[_T]:
        """What each of the ranks that see different data has, in their order; for what JSON could hold."""
        every = [own] * self.data_world
        if self.data_world > 1:
            dist.all_gather_object(every, own, group=self._data_group)
        return every

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on some rank."""
        if self.world == 1:
            return flag
        raised = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised.item())

    def close(self) -> None:
        """Leave the other processes, at the end of the run."""
        if self._joined and dist.is_initialized():
            dist.destroy_process_group()

    def _join(self) -> None:
        if dist.is_initialized():
            return
        # checkpoints are written in the background, by way of the CPU
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        if self.world > 1:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)

    @property
    def _data_mesh(self) -> DeviceMesh:
        """The ranks that see different rows."""
        return self._mesh["replicate", "shard"] if self.config.replicate > 1 else self._mesh["shard"]

    @property
    def _policy(self) -> MixedPrecisionPolicy:
        # inputs are not cast: the rotations are fp32 in every dtype
        return MixedPrecisionPolicy(
            param_dtype=self.dtype, reduce_dtype=torch.float32, output_dtype=None, cast_forward_inputs=False
        )

    def _shard(self, model: Llama) -> None:
        """FSDP2, a group a block and one for embedding, last norm and output."""
        mesh, policy = self._data_mesh, self._policy
        keep_whole = self._mesh["shard"].size() == 1  # nothing to gain from dropping what nobody else holds
        for block in model.layers:
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=not keep_whole)
        fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        blocks = [cast(FSDPModule, block) for block in model.layers]
        for module in (cast(FSDPModule, model), *blocks):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        for previous, following in pairwise(blocks):
            previous.set_modules_to_forward_prefetch([following])
            following.set_modules_to_backward_prefetch([previous])
        register_fsdp_forward_method(model, "loss")
        register_fsdp_forward_method(model, "compute")


@contextmanager
def laid_out(config: ParallelConfig, device: str, dtype: DTypeName) -> Iterator[Layout]:
    """A run's layout, for a block, by the settings' words for device and dtype; freed memory is kept for reuse.

    Raises:
        ArrieroError: as `Layout`.
    """
    chosen = pick_device(device)
    if chosen.type == "cpu":
        keep_freed_memory()
    with closing(Layout(config, chosen, pick_dtype(dtype, chosen))) as layout:
        yield layout


def hold_parts(model: nn.Module) -> None:
    """Have each rank hold its own parts of the parameters alone, as between steps; a validation leaves whole copies."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _copy(model: Llama, *, wanted: bool) -> Llama | None:
    """The model's values gathered from all ranks, into a plain copy where one is wanted."""
    hold_parts(model)
    copy = Llama(model.config) if wanted else None
    if copy is not None:
        copy_adapters(model, copy)
        copy_heads(model, copy)
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        values = values.full_tensor() if isinstance(values, DTensor) else values
        if copy is not None:
            copy.get_parameter(name).data.copy_(values)
    if copy is not None:
        copy_quantised(model, copy)
    return copy


def copy_quantised(model: nn.Module, copy: nn.Module) -> None:
    """Give a copy's plain matrices the values of the model's quantised ones."""
    for name, module in model.named_modules():
        if isinstance(module, QuantisedLinear):
            copy.get_submodule(name).weight.data.copy_(module.weight)  # type: ignore[operator]
