"""Decoding over a paged KV cache as Triton kernels: the keys of a row are split among programs, and the parts combined.

A decoding step has too few queries to fill a GPU, so each row's keys are split (Flash-Decoding): every split is an
attention of its own, by the loop of FlashAttention-2 (Dao 2023, arXiv 2307.08691, section 3.1), and the outputs are
averaged by weights exp(L), L being each split's log-sum-exp. Pages are found through a table, as in PagedAttention
(Kwon et al. 2023, arXiv 2309.06180). The T queries of the G heads that share a KV head form one tile, so that every key
is read once. Maximum, exponentials and logarithms are in base 2.

The number of splits follows the GPU and the batch, so the last bits of a row's output may depend on its neighbours.

Limits: head dim up to 256; fp32, bf16 or fp16, in fp32 with exact products (`ieee`), never TF32; no gradients.

B batch, T query tokens, H heads, K KV heads, G = H / K heads that share a KV head, D head dim, P pages of the pool.
"""

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from arriero.kernels.flash_tiles import INTERPRETED, cap, tile_offset, visible
from arriero.kernels.options import Options

KEYS_OF_A_SPLIT = 256
"""A split of fewer keys costs more to combine than it saves."""
INTERPRETED_PROCESSORS = 4
"""What the interpreter counts as multiprocessors."""
TILE_BYTES = 2**14
"""Bytes of a tile of keys, and of one of values."""
STAGES = 5
"""Steps of the pipeline. The page numbers that the tiles wait for take half: two tiles of each kind are read ahead."""


def flash_decode(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    lengths: Tensor,
    options: Options,
    splits: int | None = None,
) -> Tensor:
    """Attend from `q` (B, T, H, D) to the pages that `page_table` (B, N) lists of the pools (P, page, K, D).

    Args:
        lengths: (B,) keys of each row; of its T queries the last sees them all.
        options: `scale`, `window` and `softcap` count.
        splits: number of parts of each row's keys; by default as many as fill the GPU.

    Returns:
        (B, T, H, D) in q's dtype, contiguous.
    """
    (batch, queries, heads, dim), (page, kv_heads) = q.shape, k_pages.shape[1:3]
    q, page_table, lengths = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, page_table, lengths))
    group, rows, pages = heads // kv_heads, batch * queries * heads, page_table.shape[1]
    tile = _tile(q, group * queries)
    blocks = triton.cdiv(group * queries, tile["BLOCK_M"])
    if splits is None:
        keys = pages * page if options.window is None else min(pages * page, options.window + queries)
        splits = _splits(q.device, batch * kv_heads * blocks, keys)

    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    parts = out[None] if splits == 1 else q.new_empty(splits, *q.shape, dtype=torch.float32)  # (splits, B, T, H, D)
    log_sums = q.new_empty(splits, batch, queries, heads, dtype=torch.float32)
    with torch.cuda.device_of(q):  # nothing, for a tensor on the CPU
        decode_kernel[(batch * kv_heads * splits * blocks,)](
            *(q, k_pages, v_pages, page_table, lengths, parts, log_sums),
            *(queries, kv_heads, pages, splits, rows),
            *(options.scale_of(q) * math.log2(math.e), (options.softcap or 0.0) * math.log2(math.e)),
            *(*q.stride()[:3], *k_pages.stride()[:3], *v_pages.stride()[:3], page_table.stride(0)),
            GROUP=group,
            PAGE=page,
            WINDOW=options.window or 0,
            SOFTCAP=options.softcap is not None,
            HEAD_DIM=dim,
            **tile,
        )
        if splits > 1:
            combine_kernel[(rows,)](
                parts, log_sums, out, splits, rows, HEAD_DIM=dim, BLOCK_D=tile["BLOCK_D"], BLOCK_S=16
            )
    return out


def _tile(q: Tensor, queries: int) -> dict[str, int]:
    """How to compile the kernel for `queries` that share a KV head: so that no registers spill, as
    `tests/kernels/compiling.py` tells, and two programs of up to 16 queries fit a multiprocessor (8.0, 9.0)."""
    block_d, size = max(triton.next_power_of_2(q.shape[3]), 16), q.element_size()
    most_queries = 16 if size == 4 else 64 if block_d <= 128 else 32
    block_n = min(max(TILE_BYTES // (block_d * size), 16), 128)
    return {
        "BLOCK_D": block_d,
        "BLOCK_M": min(max(triton.next_power_of_2(queries), 16), most_queries),
        "BLOCK_N": 16 if INTERPRETED else block_n,  # small there: several tiles even in small tests
        "num_warps": 2 * size,
        "num_stages": STAGES,
    }


def _splits(device: torch.device, programs: int, keys: int) -> int:
    """How many splits give two programs to each multiprocessor, if without splits there are so many `programs`."""
    return max(min(2 * _processors(device) // programs, -(-keys // KEYS_OF_A_SPLIT)), 1)


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


@triton.jit(do_not_specialize=["queries", "kv_heads", "pages", "splits", "rows", "stride_table"])
def decode_kernel(
    q_pointer, k_pointer, v_pointer, table, lengths, out_pointer, log_sum_pointer,
    queries, kv_heads, pages, splits, rows, scale, softcap,
    stride_qb, stride_qt, stride_qh, stride_kp, stride_kt, stride_kh, stride_vp, stride_vt, stride_vh, stride_table,
    GROUP: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One split of one row's keys, for a block of the queries of one KV head: O and L (in base 2) of that part.

    Query m of the G · T is that of token m // G and of the KV head's query head m % G. The blocks of the same keys are
    neighbours, to share them in the L2 cache. `rows` are those of the output, B · T · H.
    """
    blocks = tl.cdiv(queries * GROUP, BLOCK_M)
    block = tl.program_id(0) % blocks
    split = tl.program_id(0) // blocks % splits
    kv_head = tl.program_id(0) // blocks // splits % kv_heads
    row = tl.program_id(0) // blocks // splits // kv_heads
    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    t = m // GROUP
    head = kv_head * GROUP + m % GROUP
    dim = tl.arange(0, BLOCK_D)
    mask = (t < queries)[:, None] & (dim < HEAD_DIM)[None, :]
    q_place = q_pointer + tile_offset(row, head, t, stride_qb, stride_qh, stride_qt)
    q = tl.load(q_place[:, None] + dim[None, :], mask=mask, other=0.0)  # (M, D)

    keys = tl.maximum(tl.minimum(tl.load(lengths + row).to(tl.int32), pages * PAGE), 0)
    begin, end = _key_range(block, split, splits, queries, keys, GROUP, WINDOW, BLOCK_M, BLOCK_N)
    out = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    normaliser = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_table = table + tl.cast(row, tl.int64) * stride_table
    for s_start in range(begin, end, BLOCK_N):
        s = s_start + tl.arange(0, BLOCK_N)
        there = (s < end)[:, None] & (dim < HEAD_DIM)[None, :]
        page = tl.load(row_table + s // PAGE, mask=s < end, other=0)  # (N,)
        k_place = k_pointer + tile_offset(page, kv_head, s % PAGE, stride_kp, stride_kh, stride_kt)
        k = tl.load(k_place[:, None] + dim[None, :], mask=there, other=0.0)  # (N, D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # (M, N)
        if SOFTCAP:
            scores = cap(scores, softcap)
        seen = visible(t[:, None], s[None, :], queries, keys, True, WINDOW) & (s < end)[None, :]
        scores = tl.where(seen, scores, float("-inf"))

        new_top = tl.maximum(top, tl.max(scores, 1))
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)  # −∞ − (−∞) would be NaN
        weights = tl.exp2(scores - reference[:, None])
        rescaled = tl.exp2(top - reference)
        normaliser = normaliser * rescaled + tl.sum(weights, 1)
        v_place = v_pointer + tile_offset(page, kv_head, s % PAGE, stride_vp, stride_vh, stride_vt)
        v = tl.load(v_place[:, None] + dim[None, :], mask=there, other=0.0)  # (N, D)
        out = tl.dot(weights.to(v.dtype), v, out * rescaled[:, None], input_precision="ieee")
        top = new_top

    divisor = tl.where(normaliser == 0, 1.0, normaliser)  # queries that see nothing: O = 0, and L = −∞ by `top`
    place = tl.cast(split, tl.int64) * rows + tile_offset(row, head, t, queries * kv_heads * GROUP, 1, kv_heads * GROUP)
    out = (out / divisor[:, None]).to(out_pointer.dtype.element_ty)
    tl.store(out_pointer + place[:, None] * HEAD_DIM + dim[None, :], out, mask=mask)
    tl.store(log_sum_pointer + place, top + tl.log2(divisor), mask=t < queries)


@triton.jit
def _key_range(
    block, split, splits, queries, keys,
    GROUP: tl.constexpr, WINDOW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The keys [begin, end) of this split: its share, in whole tiles, of those that some query of the block sees."""
    last = tl.minimum(((block + 1) * BLOCK_M - 1) // GROUP, queries - 1)
    high = tl.maximum(keys - queries + last + 1, 0)
    low = 0
    if WINDOW > 0:
        low = tl.maximum(keys - queries + block * BLOCK_M // GROUP - WINDOW + 1, 0)
    share = tl.cdiv(tl.cdiv(high - low, BLOCK_N), splits) * BLOCK_N
    begin = low + split * share
    return begin, tl.minimum(begin + share, high)


@triton.jit(do_not_specialize=["splits", "rows"])
def combine_kernel(
    part_pointer, log_sum_pointer, out_pointer, splits, rows,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One row of the output, from its parts: Σ exp(L) O / Σ exp(L), of BLOCK_S parts at a time."""
    row = tl.program_id(0)
    dim = tl.arange(0, BLOCK_D)
    out = tl.zeros([BLOCK_D], tl.float32)
    normaliser = tl.zeros([1], tl.float32)
    top = tl.full([1], float("-inf"), tl.float32)
    for start in range(0, splits, BLOCK_S):
        split = start + tl.arange(0, BLOCK_S)
        place = tl.cast(split, tl.int64) * rows + row
        log_sum = tl.load(log_sum_pointer + place, mask=split < splits, other=float("-inf"))  # (S,)
        mask = (split < splits)[:, None] & (dim < HEAD_DIM)[None, :]
        part = tl.load(part_pointer + place[:, None] * HEAD_DIM + dim[None, :], mask=mask, other=0.0)  # (S, D)

        new_top = tl.maximum(top, tl.max(log_sum, 0))
        reference = tl.where(new_top == float("-inf"), 0.0, new_top)  # −∞ − (−∞) would be NaN
        weights = tl.exp2(log_sum - reference)
        rescaled = tl.exp2(top - reference)
        normaliser = normaliser * rescaled + tl.sum(weights, 0)
        out = out * rescaled + tl.sum(weights[:, None] * part, 0)
        top = new_top
    out = (out / tl.where(normaliser == 0, 1.0, normaliser)).to(out_pointer.dtype.element_ty)
    tl.store(out_pointer + tl.cast(row, tl.int64) * HEAD_DIM + dim, out, mask=dim < HEAD_DIM)
