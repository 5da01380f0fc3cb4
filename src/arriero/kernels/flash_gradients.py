"""Tile by tile, the gradients of attention: Algorithm 4 of FlashAttention (Dao et al. 2022, arXiv 2205.14135).

`walk_queries` goes along the queries that see a block of keys and adds up its dK and dV, `walk_keys` along the keys of
a block of queries and adds up its dQ. Both make P again from L, and dS = P ∘ (dP − D) by `differentiate`. Scores, their
scale and L are in base 2 as in the forward pass, so that P is off by the rounding of L alone.

M queries and N keys of a tile, D head dim.
"""

import triton
import triton.language as tl

from arriero.kernels.flash_tiles import LN_2, cap, dropout_keep, load_tile, tile_start, visible


@triton.jit
def walk_queries(
    grad_k, grad_v, k, v, s, there, q_start, grad_out_start, grad_q_start, log_sum_start, delta_start,
    members, begin, end, queries, keys, scale, softcap, seed, dropped_below, kept_factor, stream,
    stride_qt, stride_ot, stride_gqt, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DROPOUT: tl.constexpr,
    KEY_MASK: tl.constexpr, SIZE: tl.constexpr, ATOMIC: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add what tiles `begin` to `end` of a head's queries give; scores stand on their side here, (N, M)."""
    place = tl.arange(0, BLOCK_M)
    for m in range(begin, end):
        t_start = tile_start(m, members, BLOCK_M, SIZE)
        t = t_start + place
        limit = queries - t_start
        q_tile = q_start + tl.cast(t_start, tl.int64) * stride_qt
        q = load_tile(q_tile, place, stride_qt, limit, HEAD_DIM, BLOCK_D)  # (M, D)
        grad_out_tile = grad_out_start + tl.cast(t_start, tl.int64) * stride_ot
        grad_out = load_tile(grad_out_tile, place, stride_ot, limit, HEAD_DIM, BLOCK_D)  # (M, D)
        log_sum = tl.load(log_sum_start + t, mask=place < limit, other=0.0)
        delta = tl.load(delta_start + t, mask=place < limit, other=0.0)
        scores = tl.dot(k, tl.trans(q), input_precision="ieee")  # S = K Qᵀ
        grad_weights = tl.dot(v, tl.trans(grad_out), input_precision="ieee")  # dP = V dOᵀ
        weights, grad_scores = differentiate(
            scores, grad_weights, log_sum[None, :], delta[None, :], t[None, :], s[:, None], there[:, None],
            queries, keys, scale, softcap, seed, dropped_below, kept_factor, stream,
            CAUSAL, WINDOW, SOFTCAP, DROPOUT, KEY_MASK or ATOMIC, MASKED,
        )  # fmt: skip
        grad_v = tl.dot(weights.to(v.dtype), grad_out, grad_v, input_precision="ieee")  # dV += P dO
        grad_scores = grad_scores.to(q.dtype)
        grad_k = tl.dot(grad_scores, q, grad_k, input_precision="ieee")  # dK += dS Q
        if ATOMIC:
            grad_q = tl.dot(tl.trans(grad_scores), k, input_precision="ieee") * (scale * LN_2)  # dQ += dSᵀ K
            dim = tl.arange(0, BLOCK_D)
            grad_q_tile = grad_q_start + tl.cast(t_start, tl.int64) * stride_gqt
            inside = (place < limit)[:, None] & (dim < HEAD_DIM)[None, :]
            tl.atomic_add(grad_q_tile + place[:, None] * stride_gqt + dim[None, :], grad_q, inside, sem="relaxed")
    return grad_k, grad_v


@triton.jit
def walk_keys(
    grad_q, q, grad_out, log_sum, delta, t, k_start, v_start, mask_start, members, begin, end,
    queries, keys, scale, softcap, seed, dropped_below, kept_factor, stream, stride_kt, stride_vt,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DROPOUT: tl.constexpr,
    KEY_MASK: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add what tiles `begin` to `end` of the keys give."""
    place = tl.arange(0, BLOCK_N)
    for n in range(begin, end):
        s_start = tile_start(n, members, BLOCK_N, SIZE)
        s = s_start + place
        limit = keys - s_start
        k_tile = k_start + tl.cast(s_start, tl.int64) * stride_kt
        k = load_tile(k_tile, place, stride_kt, limit, HEAD_DIM, BLOCK_D, MASKED)  # (N, D)
        v_tile = v_start + tl.cast(s_start, tl.int64) * stride_vt
        v = load_tile(v_tile, place, stride_vt, limit, HEAD_DIM, BLOCK_D, MASKED)  # (N, D)
        there = place < limit
        if KEY_MASK:
            there = tl.load(mask_start + s, mask=there, other=0) != 0
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # S = Q Kᵀ
        grad_weights = tl.dot(grad_out, tl.trans(v), input_precision="ieee")  # dP = dO Vᵀ
        _, grad_scores = differentiate(
            scores, grad_weights, log_sum[:, None], delta[:, None], t[:, None], s[None, :], there[None, :],
            queries, keys, scale, softcap, seed, dropped_below, kept_factor, stream,
            CAUSAL, WINDOW, SOFTCAP, DROPOUT, KEY_MASK, MASKED,
        )  # fmt: skip
        grad_q = tl.dot(grad_scores.to(k.dtype), k, grad_q, input_precision="ieee")  # dQ += dS K
    return grad_q


@triton.jit
def differentiate(
    scores, grad_weights, log_sum, delta, t, s, there, queries, keys,
    scale, softcap, seed, dropped_below, kept_factor, stream,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DROPOUT: tl.constexpr,
    SOME_KEYS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """P as it went into O, and dS = P ∘ (dP − D), of a tile; `t` and `s` broadcast to its shape, either way round."""
    slope = 1.0
    scores = scores * scale
    if SOFTCAP:
        scores = cap(scores, softcap)
        share = scores / softcap  # the hyperbolic tangent
        slope = 1.0 - share * share
    if MASKED:
        scores = tl.where(visible(t, s, queries, keys, CAUSAL, WINDOW), scores, float("-inf"))
    if SOME_KEYS:
        scores = tl.where(there, scores, float("-inf"))
    base = tl.where(log_sum == float("-inf"), float("inf"), log_sum)  # P = 0 where a query sees nothing
    weights = tl.exp2(scores - base)
    dropped = weights
    if DROPOUT:
        keep = dropout_keep(seed, dropped_below, stream, t, s)
        dropped = tl.where(keep, weights * kept_factor, 0.0)
        grad_weights = tl.where(keep, grad_weights * kept_factor, 0.0)
    return dropped, weights * (grad_weights - delta) * slope
