"""Which blocks of the scores a block-sparse attention computes (FlashAttention, arXiv 2205.14135, section 3.3).

Zero blocks are never visited, forward or backward, so that the work falls to the share of blocks that are not zero.

Tb query blocks, Sb key blocks, H heads.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError

SMALLEST_SIZE = 16
"""Tokens: the smallest side of a block that a GPU's matrix units take."""


@dataclass(frozen=True, eq=False)
class BlockMask:
    """Query block i sees key block j where `blocks[..., i, j]` is true."""

    blocks: Tensor
    """(Tb, Sb) for all heads, or (H, Tb, Sb); bool."""
    size: int = 128
    """Tokens along a block's side; a power of two, 16 at least. The last block of a side may be cut short."""
    rows: "BlockLists" = field(init=False)
    """For each query block, the key blocks that it sees: the forward pass and dQ walk along these."""
    columns: "BlockLists" = field(init=False)
    """For each key block, the query blocks that see it: dK and dV walk along these."""

    def __post_init__(self) -> None:
        if self.blocks.dim() not in (2, 3) or self.blocks.dtype != torch.bool or self.blocks.numel() == 0:
            raise ArrieroError(
                "blocks: expected bool of shape (query blocks, key blocks) or (heads, query blocks, key blocks), "
                f"got {self.blocks.dtype} of shape {tuple(self.blocks.shape)}"
            )
        if self.size < SMALLEST_SIZE or self.size & (self.size - 1):
            raise ArrieroError(f"size: expected a power of two from {SMALLEST_SIZE} on, got {self.size}")
        by_head = self.blocks if self.blocks.dim() == 3 else self.blocks[None]
        object.__setattr__(self, "rows", BlockLists.of(by_head))
        object.__setattr__(self, "columns", BlockLists.of(by_head.transpose(1, 2)))

    def check(self, heads: int, queries: int, keys: int) -> None:
        """Check that the mask covers `queries` × `keys` scores of `heads` heads.

        Raises:
            ArrieroError: it has another number of heads or of blocks.
        """
        need = -(-queries // self.size), -(-keys // self.size)
        if tuple(self.blocks.shape[-2:]) != need or (self.blocks.dim() == 3 and self.blocks.shape[0] not in (1, heads)):
            raise ArrieroError(
                f"block_mask: expected {need[0]} × {need[1]} blocks of {self.size} tokens, for all or each of {heads} "
                f"heads, got shape {tuple(self.blocks.shape)}"
            )

    def visible(self, queries: int, keys: int) -> Tensor:
        """(1 or H, T, S), bool: the same mask, token by token, as the reference needs it."""
        by_head = self.blocks if self.blocks.dim() == 3 else self.blocks[None]
        tokens = by_head.repeat_interleave(self.size, 1).repeat_interleave(self.size, 2)
        return tokens[:, :queries, :keys]


@dataclass(frozen=True, eq=False)
class BlockLists:
    """The true entries of each line of a mask, one list after the other."""

    starts: Tensor
    """(1 or H, lines + 1), int32: where in `members` each line's list begins, and ends where the next begins."""
    members: Tensor
    """(true entries,), int32: the blocks of all lists, rising within each."""

    @classmethod
    def of(cls, blocks: Tensor) -> "BlockLists":
        """From `blocks` (1 or H, lines, blocks of a line), bool."""
        heads, lines, _ = blocks.shape
        ends = blocks.sum(-1).flatten().cumsum(0).view(heads, lines)  # (H, lines)
        before = torch.cat([ends.new_zeros(1), ends.flatten()[:-1]]).view(heads, lines)[:, :1]  # (H, 1)
        members = blocks.nonzero()[:, 2]
        return cls(starts=torch.cat([before, ends], 1).int().contiguous(), members=members.int().contiguous())


def butterfly(blocks: int, device: torch.device | str = "cpu") -> Tensor:
    """(blocks, blocks) bool: the flat butterfly, the fixed pattern of the paper's block-sparse experiments.

    The butterfly factors of a fast Fourier transform of size n mix the entries whose numbers differ in one bit; their
    flattened sum (Dao et al. 2021, "Pixelated Butterfly", arXiv 2112.00029) has the diagonal and all those pairs,
    1 + log2 n blocks a row. Where n is no power of two, the pattern of the next one is cut.

    Raises:
        ArrieroError: fewer than one block.
    """
    if blocks < 1:
        raise ArrieroError(f"blocks: expected 1 or more, got {blocks}")
    number = torch.arange(blocks, device=device)
    differing = number[:, None] ^ number  # (n, n)
    return (differing & (differing - 1)) == 0  # no bit set, or exactly one
