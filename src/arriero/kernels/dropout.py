"""Which attention weights a dropout keeps: a function of the seed and of the weight's place, with no state.

The forward pass keeps no mask; the backward pass computes the same one again (FlashAttention, arXiv 2205.14135,
Algorithm 4, line 13, saves the generator's state for that). The generator is Philox4x32-10 (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"), the one that Triton has: so the reference, the tiles and the kernels
drop the same weights, whatever their blocks.
"""

import torch
from torch import Tensor

MULTIPLIER_A, MULTIPLIER_B = 0xD2511F53, 0xCD9E8D57
KEY_STEP_A, KEY_STEP_B = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
WORD = 0xFFFFFFFF


def dropout_keep(seed: int, rate: float, stream: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Where weights stay, bool, in the shape to which the three int64 tensors broadcast.

    Args:
        seed: 0 to 2⁶³ − 1; another seed gives another mask.
        rate: share of weights dropped, 0 up to 1.
        stream: number of the sequence times H plus the head.
        query, key: place in the sequence.
    """
    return philox(seed, key, query, stream) >= threshold(rate)


def threshold(rate: float) -> int:
    """A 32-bit random word below this is a weight dropped."""
    return int(rate * 2**32)


def philox(seed: int, c0: Tensor, c1: Tensor, c2: Tensor) -> Tensor:
    """First of Philox4x32-10's four words for the counter (c0, c1, c2, 0), as int64 from 0 to 2³² − 1."""
    c0, c1, c2 = torch.broadcast_tensors(c0, c1, c2)  # type: ignore[no-untyped-call]
    c3 = torch.zeros_like(c0)
    key_a, key_b = seed & WORD, seed >> 32 & WORD
    for _ in range(ROUNDS):
        # int64 products overflow into the sign; shifted and cut to a word, both halves are those of the uint64 product
        product_a, product_b = c0 * MULTIPLIER_A, c2 * MULTIPLIER_B
        c0, c2 = (product_b >> 32 & WORD) ^ c1 ^ key_a, (product_a >> 32 & WORD) ^ c3 ^ key_b
        c1, c3 = product_b & WORD, product_a & WORD
        key_a, key_b = key_a + KEY_STEP_A & WORD, key_b + KEY_STEP_B & WORD
    return c0
