"""How processes share a training run: the setting, and what of a model's shape it asks for.

`parallel.py` does it; this file needs no part of PyTorch, so that help and estimates come at once.
"""

from dataclasses import dataclass

from arriero.common.errors import ArrieroError
from arriero.model.config import LlamaConfig


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How many processes share what; their product is the number of processes."""

    replicate: int = 1
    """Groups of processes that each hold the whole model and see different data."""
    shard: int = 0
    """Processes that share out parameters, gradients and optimizer states, and see different data (FSDP); 0: all
    that the other two leave."""
    tensor: int = 1
    """Processes that share out every matrix, and see the same data (tensor parallelism)."""
    sequence: bool = True
    """With tensor above 1: share out the tokens between the matrices too (sequence parallelism)."""
    sum_every: bool = False
    """Sum gradients over processes after every micro-batch, not after a step's last one alone: more communication, but
    no process keeps a whole gradient, 4 bytes a parameter, in between."""

    def __post_init__(self) -> None:
        for name, least in (("replicate", 1), ("shard", 0), ("tensor", 1)):
            if getattr(self, name) < least:
                raise ArrieroError(f"{name}: expected {least} or more, got {getattr(self, name)}")

    def shards(self, world: int) -> int:
        """What `shard` comes to with so many processes.

        Raises:
            ArrieroError: the numbers do not multiply to `world`.
        """
        others = self.replicate * self.tensor
        shard = self.shard or world // others
        if shard * others != world:
            product = f"replicate {self.replicate} × shard {self.shard or 'any'} × tensor {self.tensor}"
            raise ArrieroError(f"expected {product} processes, got {world}: see torchrun's --nproc-per-node")
        return shard


def check_divisible(config: LlamaConfig, ranks: int) -> None:
    """Whether a model can be divided among so many ranks.

    Raises:
        ArrieroError: naming the size that can't be.
    """
    for name in ("n_kv_heads", "n_heads", "hidden_dim", "vocab_size"):
        if getattr(config, name) % ranks:
            raise ArrieroError(f"tensor: expected a divisor of {name} = {getattr(config, name)}, got {ranks}")
