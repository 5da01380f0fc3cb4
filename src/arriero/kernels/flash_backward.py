"""FlashAttention's backward pass as Triton kernels: dQ, dK and dV from q, k, v, O and L alone.

Algorithm 4 of FlashAttention (Dao et al. 2022, arXiv 2205.14135), with D = rowsum(dO ∘ O) computed beforehand and P
taken from L, as FlashAttention-2 does (Dao 2023, arXiv 2307.08691, section 3.1). One kernel keeps a block of keys and
walks along the queries that see it, of all heads that share it, for dK and dV; another keeps a block of queries and
walks along its keys for dQ. Nobody adds to another's sums, so the result is the same each time. Where that isn't asked
for, the first kernel adds dQ up too, with atomics: 5 products a tile instead of 7, in no certain order.

Tiles that are not wholly seen are masked in loops of their own, and those not seen are not visited, as in the forward
pass. In fp32 products are exact (`ieee`), never TF32.

B batch, T query tokens, S key tokens, H heads, K KV heads, G = H / K, D head dim; M queries and N keys of a tile.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from arriero.kernels.block_mask import BlockLists
from arriero.kernels.dropout import threshold
from arriero.kernels.flash_gradients import walk_keys, walk_queries
from arriero.kernels.flash_tiles import (
    COUNTS,
    INTERPRETED,
    LN_2,
    TUNED_BY,
    bucket,
    key_interior,
    key_range,
    load_tile,
    loadable,
    locate_program,
    locate_sequence,
    query_interior,
    query_range,
    store_tile,
    tile_bounds,
    tile_configs,
    tile_offset,
)
from arriero.kernels.options import Options

KEY_TILES = {
    (2, 64): [(64, 128, 8, 3), (32, 128, 8, 2), (64, 64, 8, 2), (32, 64, 4, 2), (32, 64, 4, 3)],
    (2, 128): [(32, 128, 8, 2), (64, 64, 8, 2), (32, 64, 8, 2), (32, 64, 8, 1), (16, 128, 8, 2)],
    (2, 256): [(32, 64, 8, 1), (16, 64, 8, 1), (16, 64, 8, 2), (32, 32, 8, 1), (16, 32, 8, 1)],
    (4, 64): [(32, 64, 8, 1), (32, 32, 4, 1), (16, 64, 8, 1)],
    (4, 128): [(32, 32, 8, 1), (16, 32, 8, 1), (16, 32, 4, 1)],
    (4, 256): [(16, 32, 8, 1), (16, 16, 8, 1), (16, 16, 4, 1)],
}
"""(queries, keys, warps, stages) to try for dK and dV, by bytes an element and head dim: those whose registers spill
least, as `tests/kernels/compiling.py` tells."""
QUERY_TILES = {
    (2, 64): [(128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 2), (128, 32, 4, 3)],
    (2, 128): [(128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 8, 2), (64, 32, 4, 2), (128, 32, 8, 2)],
    (2, 256): [(128, 32, 8, 2), (64, 32, 8, 2), (64, 64, 8, 2), (32, 32, 4, 1)],
    (4, 64): [(64, 32, 8, 1), (32, 32, 4, 1), (32, 64, 8, 1)],
    (4, 128): [(32, 32, 8, 1), (32, 16, 8, 1), (32, 16, 4, 1)],
    (4, 256): [(32, 16, 8, 1), (16, 16, 8, 1), (16, 16, 4, 1)],
}
"""The same for dQ."""
SMALL_TILES = {2: [(32, 32, 4, 1), (16, 16, 1, 1)], 4: [(32, 32, 8, 1), (16, 16, 4, 1)]}
"""For short sequences or a mask of small blocks, by bytes an element."""


def flash_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sum: Tensor,
    grad_out: Tensor,
    grad_log_sum: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `q` (B, T, H, D) and `k`, `v` (B, S, K, D) in their dtype, contiguous.

    Args:
        out, log_sum: O (B, T, H, D) and L · log₂ e (B, H, T), as the forward pass gives them.
        grad_out, grad_log_sum: those of O, and of L itself, which may be None.
    """
    q, k, v, out, grad_out = (loadable(x) for x in (q, k, v, out, grad_out))
    grad_q, grad_k, grad_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    if not options.deterministic:
        grad_q = torch.zeros_like(grad_q, dtype=torch.float32)  # to be added to
    if grad_log_sum is not None:  # L = −∞ is constant: its gradient is often NaN, and must not reach anything
        grad_log_sum = grad_log_sum.masked_fill(log_sum == -torch.inf, 0.0).contiguous()
    delta = _row_products(out, grad_out, grad_log_sum)
    tensors = (q, k, v, grad_out, log_sum.contiguous(), delta, grad_q, grad_k, grad_v)
    numbers, constants = _arguments(tensors, options)
    (batch, queries, heads, _), (_, keys, kv_heads, _) = q.shape, k.shape
    documents, mask = options.documents, options.block_mask

    def programs(tokens: int, block: int, heads: int) -> tuple[int]:
        blocks = triton.cdiv(tokens, block) * batch
        if documents is not None:
            blocks = batch * tokens // block + len(documents.spans)  # as `locate_block` counts them
        return (blocks * heads,)

    masks = (
        documents and documents.table,
        None if options.key_lengths is None else options.key_lengths.contiguous(),
        None if options.key_mask is None else options.key_mask.contiguous(),
    )
    with torch.cuda.device_of(q):  # nothing, for a tensor on the CPU
        keys_kernel[lambda meta: programs(keys, meta["BLOCK_N"], kv_heads)](
            *tensors, *masks, *_lists(mask.columns if mask else None), *numbers, **constants,
            ATOMIC=not options.deterministic,
        )  # fmt: skip
        if options.deterministic:
            queries_kernel[lambda meta: programs(queries, meta["BLOCK_M"], heads)](
                *tensors, *masks, *_lists(mask.rows if mask else None), *numbers, **constants
            )
    return grad_q.to(q.dtype), grad_k, grad_v


def _arguments(tensors: tuple[Tensor, ...], options: Options) -> tuple[tuple[int | float, ...], dict[str, Any]]:
    """The numbers and the constants that both kernels take."""
    q, k, v, grad_out, _, _, grad_q, grad_k, _ = tensors
    (batch, queries, heads, dim), (_, keys, kv_heads, _) = q.shape, k.shape
    documents = options.documents
    sequences, longest = (batch, queries) if documents is None else (len(documents.spans), documents.max_length)
    numbers = (
        *(sequences, queries, keys, heads, heads // kv_heads, bucket(longest), bucket(keys)),
        *(options.scale_of(q) * math.log2(math.e), (options.softcap or 0.0) * math.log2(math.e)),
        *(options.seed, threshold(options.dropout), 1 / (1 - options.dropout)),
        *(stride for x in (q, k, v, grad_out, grad_q, grad_k) for stride in x.stride()[:3]),
    )
    constants = {
        "HEAD_DIM": dim,
        "BLOCK_D": max(triton.next_power_of_2(dim), 16),
        "CAUSAL": options.causal,
        "WINDOW": options.window or 0,
        "SOFTCAP": options.softcap is not None,
        "DROPOUT": options.dropout > 0,
        "DOCUMENTS": documents is not None,
        "RAGGED": options.key_lengths is not None,
        "KEY_MASK": options.key_mask is not None,
        "SIZE": options.block_mask.size if options.block_mask else 0,
    }
    return numbers, constants


def _lists(lists: BlockLists | None) -> tuple[Tensor | None, Tensor | None, int]:
    """Starts and members of a mask's lists, and elements from one head's starts to the next one's."""
    if lists is None:
        return None, None, 0
    return lists.starts, lists.members, 0 if lists.starts.shape[0] == 1 else lists.starts.shape[1]


def _row_products(out: Tensor, grad_out: Tensor, grad_log_sum: Tensor | None) -> Tensor:
    """D = rowsum(dO ∘ O) − dL, (B, H, T), fp32."""
    batch, queries, heads, dim = out.shape
    delta = torch.empty(batch, heads, queries, dtype=torch.float32, device=out.device)
    with torch.cuda.device_of(out):
        row_products_kernel[(triton.cdiv(queries, 64) * batch * heads,)](
            *(out, grad_out, grad_log_sum, delta, queries, heads),
            *(*out.stride()[:3], *grad_out.stride()[:3]),
            HEAD_DIM=dim,
            BLOCK_D=max(triton.next_power_of_2(dim), 16),
            BLOCK_M=64,
        )
    return delta


def _fitting(tiles: dict[tuple[int, int], list[tuple[int, int, int, int]]]) -> Any:
    """What the autotuner tries of `tiles`: those for the dtype and head dim, no larger than a mask's block."""

    def prune(_: list[triton.Config], arguments: dict[str, Any], **constants: Any) -> list[triton.Config]:
        size, wide = arguments["q_pointer"].element_size(), max(constants["BLOCK_D"], 64)
        largest = constants["SIZE"] or 128
        short = min(largest, arguments["longest_bucket"], arguments["keys_bucket"]) < 64
        fit = [tile for tile in (SMALL_TILES[size] if short else tiles[size, wide]) if max(tile[:2]) <= largest]
        return tile_configs(fit)

    return prune


def _tuned(tiles: dict[tuple[int, int], list[tuple[int, int, int, int]]]) -> Any:
    return triton.autotune(
        # a single one is taken untried; small in the interpreter, where it lets small tests have several tiles
        configs=tile_configs([(16, 16, 1, 1)] if INTERPRETED else SMALL_TILES[2]),
        key=[*TUNED_BY, "ATOMIC"],
        prune_configs_by={"early_config_prune": _fitting(tiles)},
        reset_to_zero=["grad_q_pointer"],  # which trials with atomics would add to; dQ's own kernel writes all of it
        cache_results=True,
    )


@triton.jit(do_not_specialize=["queries", "heads"])
def row_products_kernel(
    out_pointer, grad_out_pointer, grad_log_sum_pointer, delta_pointer, queries, heads,
    stride_ob, stride_ot, stride_oh, stride_gb, stride_gt, stride_gh,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """D of one block of queries of a head."""
    blocks = tl.cdiv(queries, BLOCK_M)
    t_start = tl.program_id(0) % blocks * BLOCK_M
    head = tl.program_id(0) // blocks % heads
    row = tl.program_id(0) // blocks // heads
    place = tl.arange(0, BLOCK_M)
    limit = queries - t_start
    out_start = out_pointer + tile_offset(row, head, t_start, stride_ob, stride_oh, stride_ot)
    grad_start = grad_out_pointer + tile_offset(row, head, t_start, stride_gb, stride_gh, stride_gt)
    out = load_tile(out_start, place, stride_ot, limit, HEAD_DIM, BLOCK_D).to(tl.float32)
    delta = tl.sum(out * load_tile(grad_start, place, stride_gt, limit, HEAD_DIM, BLOCK_D).to(tl.float32), 1)
    offset = tile_offset(row, head, t_start, heads * queries, queries, 1)
    if grad_log_sum_pointer is not None:
        delta -= tl.load(grad_log_sum_pointer + offset + place, mask=place < limit, other=0.0)
    tl.store(delta_pointer + offset + place, delta, mask=place < limit)


@_tuned(KEY_TILES)
@triton.jit(do_not_specialize=[*COUNTS, "seed", "dropped_below"])
def keys_kernel(
    q_pointer, k_pointer, v_pointer, grad_out_pointer, log_sum_pointer, delta_pointer,
    grad_q_pointer, grad_k_pointer, grad_v_pointer, documents, key_lengths, key_mask,
    block_starts, block_members, stride_block_starts,
    sequences, queries, keys, heads, group, longest_bucket, keys_bucket,
    scale, softcap, seed, dropped_below, kept_factor,
    stride_qb, stride_qt, stride_qh, stride_kb, stride_kt, stride_kh, stride_vb, stride_vt, stride_vh,
    stride_ob, stride_ot, stride_oh, stride_gqb, stride_gqt, stride_gqh, stride_gkb, stride_gkt, stride_gkh,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DROPOUT: tl.constexpr,
    DOCUMENTS: tl.constexpr, RAGGED: tl.constexpr, KEY_MASK: tl.constexpr, SIZE: tl.constexpr, ATOMIC: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dK and dV of one block of keys, from the queries of the G heads that share it; with ATOMIC, its part of dQ."""
    kv_heads = heads // group
    sequence, kv_head, block = locate_program(kv_heads, documents, sequences, keys, BLOCK_N, DOCUMENTS, False)
    s_start = block * BLOCK_N
    row, token, length, reach = locate_sequence(
        sequence, documents, sequences, key_lengths, queries, keys, DOCUMENTS, RAGGED
    )
    width = length if DOCUMENTS else keys  # keys that there are, of which `reach` count
    if s_start >= width:
        return

    place = tl.arange(0, BLOCK_N)
    s = s_start + place
    k_start = k_pointer + tile_offset(row, kv_head, token + s_start, stride_kb, stride_kh, stride_kt)
    v_start = v_pointer + tile_offset(row, kv_head, token + s_start, stride_vb, stride_vh, stride_vt)
    k = load_tile(k_start, place, stride_kt, reach - s_start, HEAD_DIM, BLOCK_D)  # (N, D)
    v = load_tile(v_start, place, stride_vt, reach - s_start, HEAD_DIM, BLOCK_D)  # (N, D)
    there = s < reach
    if KEY_MASK:
        mask_start = key_mask + tile_offset(row, 0, token, keys, 0, 1)
        there = there & (tl.load(mask_start + s, mask=there, other=0) != 0)

    grad_k = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    grad_v = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    low, high = query_range(s_start, length, reach, BLOCK_N, CAUSAL, WINDOW)
    inner_low, inner_high = query_interior(s_start, length, reach, BLOCK_N, CAUSAL, WINDOW)
    for head in range(kv_head * group, kv_head * group + group):
        bounds = tile_bounds(
            low, high, inner_low, inner_high, block_starts, block_members, head * stride_block_starts, s_start,
            BLOCK_M, SIZE,
        )  # fmt: skip
        q_start = q_pointer + tile_offset(row, head, token, stride_qb, stride_qh, stride_qt)
        grad_out_start = grad_out_pointer + tile_offset(row, head, token, stride_ob, stride_oh, stride_ot)
        grad_q_start = grad_q_pointer + tile_offset(row, head, token, stride_gqb, stride_gqh, stride_gqt)
        per_row = tile_offset(row, head, token, heads * queries, queries, 1)
        for part in tl.static_range(3):
            if part == 1 or WINDOW > 0 or (part == 0 and CAUSAL):
                grad_k, grad_v = walk_queries(
                    grad_k, grad_v, k, v, s, there, q_start, grad_out_start, grad_q_start, log_sum_pointer + per_row,
                    delta_pointer + per_row, block_members, bounds[part], bounds[part + 1], length, reach, scale,
                    softcap, seed, dropped_below, kept_factor, sequence * heads + head, stride_qt, stride_ot,
                    stride_gqt, HEAD_DIM, BLOCK_D, BLOCK_M, CAUSAL, WINDOW, SOFTCAP, DROPOUT, KEY_MASK, SIZE, ATOMIC,
                    MASKED=part != 1,
                )  # fmt: skip

    # k and v of 0 made something of keys that don't exist
    grad_k = tl.where(there[:, None], grad_k * (scale * LN_2), 0.0)
    grad_v = tl.where(there[:, None], grad_v, 0.0)
    grad_offset = tile_offset(row, kv_head, token + s_start, stride_gkb, stride_gkh, stride_gkt)
    store_tile(grad_k_pointer + grad_offset, place, stride_gkt, width - s_start, grad_k, HEAD_DIM, BLOCK_D)
    store_tile(grad_v_pointer + grad_offset, place, stride_gkt, width - s_start, grad_v, HEAD_DIM, BLOCK_D)


@_tuned(QUERY_TILES)
@triton.jit(do_not_specialize=[*COUNTS, "seed", "dropped_below"])
def queries_kernel(
    q_pointer, k_pointer, v_pointer, grad_out_pointer, log_sum_pointer, delta_pointer,
    grad_q_pointer, grad_k_pointer, grad_v_pointer, documents, key_lengths, key_mask,
    block_starts, block_members, stride_block_starts,
    sequences, queries, keys, heads, group, longest_bucket, keys_bucket,
    scale, softcap, seed, dropped_below, kept_factor,
    stride_qb, stride_qt, stride_qh, stride_kb, stride_kt, stride_kh, stride_vb, stride_vt, stride_vh,
    stride_ob, stride_ot, stride_oh, stride_gqb, stride_gqt, stride_gqh, stride_gkb, stride_gkt, stride_gkh,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DROPOUT: tl.constexpr,
    DOCUMENTS: tl.constexpr, RAGGED: tl.constexpr, KEY_MASK: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dQ of one block of queries."""
    sequence, head, block = locate_program(heads, documents, sequences, queries, BLOCK_M, DOCUMENTS, True)
    t_start = block * BLOCK_M
    row, token, length, reach = locate_sequence(
        sequence, documents, sequences, key_lengths, queries, keys, DOCUMENTS, RAGGED
    )
    if t_start >= length:
        return

    place = tl.arange(0, BLOCK_M)
    limit = length - t_start
    q_start = q_pointer + tile_offset(row, head, token + t_start, stride_qb, stride_qh, stride_qt)
    grad_out_start = grad_out_pointer + tile_offset(row, head, token + t_start, stride_ob, stride_oh, stride_ot)
    q = load_tile(q_start, place, stride_qt, limit, HEAD_DIM, BLOCK_D)  # (M, D)
    grad_out = load_tile(grad_out_start, place, stride_ot, limit, HEAD_DIM, BLOCK_D)  # (M, D)
    per_row = tile_offset(row, head, token + t_start, heads * queries, queries, 1)
    log_sum = tl.load(log_sum_pointer + per_row + place, mask=place < limit, other=0.0)
    delta = tl.load(delta_pointer + per_row + place, mask=place < limit, other=0.0)
    k_start = k_pointer + tile_offset(row, head // group, token, stride_kb, stride_kh, stride_kt)
    v_start = v_pointer + tile_offset(row, head // group, token, stride_vb, stride_vh, stride_vt)
    mask_start = key_mask
    if KEY_MASK:
        mask_start += tile_offset(row, 0, token, keys, 0, 1)

    grad_q = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    low, high = key_range(t_start, length, reach, BLOCK_M, CAUSAL, WINDOW)
    inner_low, inner_high = key_interior(t_start, length, reach, BLOCK_M, CAUSAL, WINDOW)
    bounds = tile_bounds(
        low, high, inner_low, inner_high, block_starts, block_members, head * stride_block_starts, t_start,
        BLOCK_N, SIZE,
    )  # fmt: skip
    for part in tl.static_range(3):
        grad_q = walk_keys(
            grad_q, q, grad_out, log_sum, delta, t_start + place, k_start, v_start, mask_start, block_members,
            bounds[part], bounds[part + 1], length, reach, scale, softcap, seed, dropped_below, kept_factor,
            sequence * heads + head, stride_kt, stride_vt, HEAD_DIM, BLOCK_D, BLOCK_N,
            CAUSAL, WINDOW, SOFTCAP, DROPOUT, KEY_MASK, SIZE, MASKED=part != 1,
        )  # fmt: skip
    grad_q_start = grad_q_pointer + tile_offset(row, head, token + t_start, stride_gqb, stride_gqh, stride_gqt)
    store_tile(grad_q_start, place, stride_gqt, limit, grad_q * (scale * LN_2), HEAD_DIM, BLOCK_D)
