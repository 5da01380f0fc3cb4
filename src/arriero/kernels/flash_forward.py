"""FlashAttention's forward pass as a Triton kernel: O and L without the T × S scores.

Algorithm 1 of FlashAttention (Dao et al. 2022, arXiv 2205.14135), with its two loops exchanged as in FlashAttention-2
(Dao 2023, arXiv 2307.08691, section 3.1): a program keeps one block of queries, its running maximum and normaliser and
its unnormalised output in registers, walks along the tiles of keys and values, and writes O once. Block-sparse
attention (section 3.3 of the former) walks along the listed blocks only. Maximum and exponentials are in base 2.

Tiles that some query of the block doesn't wholly see are masked in loops of their own, before and after the loop over
the tiles that all of them see; the tiles that none sees are not visited.

Limits: head dim up to 256; fp32, bf16 or fp16, in fp32 with exact products (`ieee`), never TF32.

B batch, T query tokens, S key tokens, H heads, K KV heads, D head dim.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from arriero.kernels.dropout import threshold
from arriero.kernels.flash_tiles import (
    COUNTS,
    INTERPRETED,
    TUNED_BY,
    bucket,
    cap,
    dropout_keep,
    key_interior,
    key_range,
    load_tile,
    loadable,
    locate_program,
    locate_sequence,
    store_tile,
    tile_bounds,
    tile_configs,
    tile_offset,
    tile_start,
    visible,
)
from arriero.kernels.options import Options

TILES = {
    (2, 64): [(128, 128, 8, 3), (128, 64, 8, 3), (128, 64, 4, 3), (64, 64, 4, 3)],
    (2, 128): [(128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 8, 2), (128, 32, 8, 3), (64, 64, 4, 3), (64, 32, 4, 3)],
    (2, 256): [(128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 8, 2), (64, 32, 8, 3), (64, 32, 4, 3)],
    (4, 64): [(64, 32, 8, 2), (32, 64, 8, 2), (32, 32, 4, 2)],
    (4, 128): [(64, 16, 8, 2), (32, 64, 8, 2), (32, 32, 8, 2)],
    (4, 256): [(32, 16, 8, 2), (16, 32, 8, 2)],
}
"""(queries, keys, warps, stages) to try, by bytes an element and head dim: those that compile to code whose registers
don't spill, or hardly, for compute capability 8.0 or 9.0: `tests/kernels/compiling.py` tells."""
SMALL_TILES = {2: [(32, 32, 4, 2), (16, 64, 4, 2), (16, 16, 1, 2)], 4: [(32, 32, 8, 2), (16, 32, 8, 2), (16, 16, 4, 2)]}
"""The same for few queries or a mask of small blocks, by bytes an element."""


def flash_forward(q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Attend from `q` (B, T, H, D) to `k`, `v` (B, S, K, D) as `reference.py` defines it; no gradients.

    Returns:
        O (B, T, H, D) in q's dtype, contiguous, and L · log₂ e (B, H, T) in fp32: the logarithm in base 2.
    """
    (batch, queries, heads, dim), keys = q.shape, k.shape[1]
    q, k, v = loadable(q), loadable(k), loadable(v)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    log_sum = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    documents, lists = options.documents, options.block_mask.rows if options.block_mask else None
    mask = None if options.key_mask is None else options.key_mask.contiguous()
    sequences, longest = (batch, queries) if documents is None else (len(documents.spans), documents.max_length)
    scale = options.scale_of(q)

    def grid(meta: dict[str, Any]) -> tuple[int]:
        blocks = triton.cdiv(queries, meta["BLOCK_M"]) * batch
        if documents is not None:
            blocks = batch * queries // meta["BLOCK_M"] + sequences  # as `locate_block` counts them
        return (blocks * heads,)

    with torch.cuda.device_of(q):  # nothing, for a tensor on the CPU
        forward_kernel[grid](
            *(q, k, v, out, log_sum, documents and documents.table, options.key_lengths, mask),
            *(lists and lists.starts, lists and lists.members),
            *(sequences, queries, keys, heads, heads // k.shape[2], bucket(longest), bucket(keys)),
            # a scale of 0 or below goes into q's sign, so that the largest product gives the largest score
            *(abs(scale or 1.0) * math.log2(math.e), (options.softcap or 0.0) * math.log2(math.e)),
            *(options.seed, threshold(options.dropout), 1 / (1 - options.dropout)),
            *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
            0 if lists is None or lists.starts.shape[0] == 1 else lists.starts.shape[1],
            SIGN=(scale > 0) - (scale < 0),
            HEAD_DIM=dim,
            BLOCK_D=max(triton.next_power_of_2(dim), 16),
            CAUSAL=options.causal,
            WINDOW=options.window or 0,
            SOFTCAP=options.softcap is not None,
            DROPOUT=options.dropout > 0,
            DOCUMENTS=documents is not None,
            RAGGED=options.key_lengths is not None,
            KEY_MASK=mask is not None,
            SIZE=options.block_mask.size if options.block_mask else 0,
        )
    return out, log_sum


def _fitting(_: list[triton.Config], arguments: dict[str, Any], **constants: Any) -> list[triton.Config]:
    """What the autotuner tries: for the dtype and head dim, the tiles no larger than a mask's block or the sequences.

    A kernel that needs more shared memory than the GPU has fails to load, and the autotuner passes it over.
    """
    size, wide = arguments["q_pointer"].element_size(), max(constants["BLOCK_D"], 64)
    most_keys = constants["SIZE"] or 128
    most_queries = min(most_keys, arguments["longest_bucket"])
    tiles = SMALL_TILES[size] if most_queries < 64 else TILES[size, wide]
    return tile_configs([tile for tile in tiles if tile[0] <= most_queries and tile[1] <= most_keys])


@triton.autotune(
    # a single one is taken untried; small in the interpreter, where it lets small tests have several tiles
    configs=tile_configs([(16, 16, 1, 1)] if INTERPRETED else SMALL_TILES[2]),
    key=TUNED_BY,
    prune_configs_by={"early_config_prune": _fitting},
    cache_results=True,
)
@triton.jit(do_not_specialize=[*COUNTS, "seed", "dropped_below"])
def forward_kernel(
    q_pointer, k_pointer, v_pointer, out_pointer, log_sum_pointer,
    documents, key_lengths, key_mask, block_starts, block_members,
    sequences, queries, keys, heads, group, longest_bucket, keys_bucket,
    scale, softcap, seed, dropped_below, kept_factor,
    stride_qb, stride_qt, stride_qh, stride_kb, stride_kt, stride_kh,
    stride_vb, stride_vt, stride_vh, stride_ob, stride_ot, stride_oh, stride_block_starts,
    SIGN: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DROPOUT: tl.constexpr,
    DOCUMENTS: tl.constexpr, RAGGED: tl.constexpr, KEY_MASK: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """O and L (in base 2) of one block of queries."""
    sequence, head, block = locate_program(heads, documents, sequences, queries, BLOCK_M, DOCUMENTS, True)
    t_start = block * BLOCK_M
    row, token, length, reach = locate_sequence(
        sequence, documents, sequences, key_lengths, queries, keys, DOCUMENTS, RAGGED
    )
    if t_start >= length:
        return

    place = tl.arange(0, BLOCK_M)
    q_start = q_pointer + tile_offset(row, head, token + t_start, stride_qb, stride_qh, stride_qt)
    q = load_tile(q_start, place, stride_qt, length - t_start, HEAD_DIM, BLOCK_D)  # (M, D)
    if SIGN != 1:
        q = (q * SIGN).to(q.dtype)
    k_start = k_pointer + tile_offset(row, head // group, token, stride_kb, stride_kh, stride_kt)
    v_start = v_pointer + tile_offset(row, head // group, token, stride_vb, stride_vh, stride_vt)
    mask_start = key_mask
    if KEY_MASK:
        mask_start += tile_offset(row, 0, token, keys, 0, 1)

    low, high = key_range(t_start, length, reach, BLOCK_M, CAUSAL, WINDOW)
    inner_low, inner_high = key_interior(t_start, length, reach, BLOCK_M, CAUSAL, WINDOW)
    bounds = tile_bounds(
        low, high, inner_low, inner_high, block_starts, block_members, head * stride_block_starts, t_start,
        BLOCK_N, SIZE,
    )  # fmt: skip
    out = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    normaliser = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for part in tl.static_range(3):
        if part > 0 or WINDOW > 0:
            out, normaliser, top = _attend(
                out, normaliser, top, q, k_start, v_start, mask_start, block_members, bounds[part], bounds[part + 1],
                t_start + place, length, reach, scale, softcap, seed, dropped_below, sequence * heads + head,
                stride_kt, stride_vt, HEAD_DIM, BLOCK_D, BLOCK_N, CAUSAL, WINDOW, SOFTCAP, DROPOUT, KEY_MASK, SIZE,
                MASKED=part != 1,
            )  # fmt: skip

    divisor = tl.where(normaliser == 0, 1.0, normaliser)  # queries that see nothing: O = 0, and L = −∞ by `top`
    out = out * (kept_factor / divisor)[:, None]
    out_start = out_pointer + tile_offset(row, head, token + t_start, stride_ob, stride_oh, stride_ot)
    store_tile(out_start, place, stride_ot, length - t_start, out, HEAD_DIM, BLOCK_D)
    log_sum_start = log_sum_pointer + tile_offset(row, head, token + t_start, heads * queries, queries, 1)
    tl.store(log_sum_start + place, top + tl.log2(divisor), mask=place < length - t_start)


@triton.jit
def _attend(
    out, normaliser, top, q, k_start, v_start, mask_start, members, begin, end,
    t, queries, keys, scale, softcap, seed, dropped_below, stream, stride_kt, stride_vt,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DROPOUT: tl.constexpr,
    KEY_MASK: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Take tiles `begin` to `end` into the output, the normaliser and the maximum: the inner loop of the algorithm."""
    place = tl.arange(0, BLOCK_N)
    for n in range(begin, end):
        s_start = tile_start(n, members, BLOCK_N, SIZE)
        s = s_start + place
        k_tile = k_start + tl.cast(s_start, tl.int64) * stride_kt
        k = load_tile(k_tile, place, stride_kt, keys - s_start, HEAD_DIM, BLOCK_D, MASKED)  # (N, D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # (M, N)
        factor = scale
        if SOFTCAP:
            scores = cap(scores * scale, softcap)
            factor = 1.0
        if MASKED:
            scores = tl.where(visible(t[:, None], s[None, :], queries, keys, CAUSAL, WINDOW), scores, float("-inf"))
        if KEY_MASK:
            there = tl.load(mask_start + s, mask=s < keys, other=0)
            scores = tl.where(there[None, :] != 0, scores, float("-inf"))

        new_top = tl.maximum(top, tl.max(scores, 1) * factor)
        reference = new_top
        if MASKED or KEY_MASK:
            reference = tl.where(new_top == float("-inf"), 0.0, new_top)  # −∞ − (−∞) would be NaN
        weights = tl.exp2(scores * factor - reference[:, None])
        rescaled = tl.exp2(top - reference)
        normaliser = normaliser * rescaled + tl.sum(weights, 1)
        if DROPOUT:
            weights = tl.where(dropout_keep(seed, dropped_below, stream, t[:, None], s[None, :]), weights, 0.0)
        v_tile = v_start + tl.cast(s_start, tl.int64) * stride_vt
        v = load_tile(v_tile, place, stride_vt, keys - s_start, HEAD_DIM, BLOCK_D, MASKED)  # (N, D)
        out = tl.dot(weights.to(v.dtype), v, out * rescaled[:, None], input_precision="ieee")
        top = new_top
    return out, normaliser, top
