"""Attention as the formula has it: every option, by an explicit softmax over all T × S scores.

Algorithm 0 of FlashAttention (Dao et al. 2022, arXiv 2205.14135): S = QKᵀ · scale, P = softmax(S), O = PV. Slow, and
Θ(T · S) in memory; this file is what an option means, and the tests hold every faster implementation against it.

B batch, T query tokens, S key tokens, H heads, K KV heads, D head dim.
"""

import torch
from torch import Tensor

from arriero.kernels.dropout import dropout_keep
from arriero.kernels.options import Options


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, options: Options, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Attend from `q` (B, T, H, D) to `k`, `v` (B, S, K, D); differentiable by PyTorch alone.

    Args:
        dtype: in which to compute; by default fp32, or fp64 for fp64 inputs.

    Returns:
        O (B, T, H, D) in q's dtype, and L (B, H, T), the log of each softmax's normaliser. A query that sees no key has
        O = 0 and L = −∞.
    """
    dtype = dtype or (torch.float64 if q.dtype == torch.float64 else torch.float32)
    group = q.shape[2] // k.shape[2]
    keys = k.to(dtype).repeat_interleave(group, dim=2)  # (B, S, H, D)
    values = v.to(dtype).repeat_interleave(group, dim=2)  # (B, S, H, D)

    scores = torch.einsum("bthd,bshd->bhts", q.to(dtype), keys) * options.scale_of(q)  # (B, H, T, S)
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    visible = visible_keys(q, k, options)  # (B, 1 or H, T, S)
    sees_any = visible.any(-1, keepdim=True)  # (B, 1 or H, T, 1)
    scores = scores.masked_fill(~visible, -torch.inf).masked_fill(~sees_any, 0.0)  # a softmax over nothing is NaN

    log_sum = torch.logsumexp(scores, dim=-1)  # (B, H, T)
    weights = torch.softmax(scores, dim=-1).masked_fill(~visible, 0.0)  # (B, H, T, S)
    if options.dropout > 0:
        weights = weights * kept_weights(q, k, options) / (1 - options.dropout)
    out = torch.einsum("bhts,bshd->bthd", weights, values)  # (B, T, H, D)
    return out.to(q.dtype), log_sum.masked_fill(~sees_any[..., 0], -torch.inf)


def visible_keys(q: Tensor, k: Tensor, options: Options) -> Tensor:
    """Which keys each query sees: (B, 1, T, S), or (B, H, T, S) under a block mask that differs by head; bool."""
    batch, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    key = torch.arange(keys, device=q.device)  # (S,)
    if options.key_lengths is None:
        lengths = torch.full((batch, 1), keys, device=q.device)  # (B, 1)
    else:
        lengths = options.key_lengths[:, None]
    position = lengths - queries + torch.arange(queries, device=q.device)  # (B, T), by which causal and window go
    offset = key[None, None] - position[..., None]  # (B, T, S), how far ahead of the query a key is

    visible = (key < lengths)[:, None].expand(batch, queries, keys)  # (B, T, S)
    if options.causal:
        visible = visible & (offset <= 0)
    if options.window is not None:
        visible = visible & (offset.abs() < options.window)
    if options.documents is not None:
        number = options.documents.numbers()  # (B, T)
        visible = visible & (number[:, :, None] == number[:, None, :])
    if options.key_mask is not None:
        visible = visible & options.key_mask[:, None]
    visible = visible[:, None]  # (B, 1, T, S)
    if options.block_mask is not None:
        visible = visible & options.block_mask.visible(queries, keys)
    return visible


def kept_weights(q: Tensor, k: Tensor, options: Options) -> Tensor:
    """The weights that dropout keeps: (B, H, T, S), bool. A packed document counts as a sequence of its own."""
    batch, queries, heads, _ = q.shape
    if options.documents is None:
        sequence = torch.arange(batch, device=q.device)[:, None]  # (B, 1)
        query, key = torch.arange(queries, device=q.device)[None], torch.arange(k.shape[1], device=q.device)[None]
    else:
        sequence, query = options.documents.numbers(), options.documents.positions()  # (B, T)
        key = query  # (B, S)
    stream = sequence[:, None] * heads + torch.arange(heads, device=q.device)[:, None]  # (B, H, 1 or T)
    return dropout_keep(options.seed, options.dropout, stream[..., None], query[:, None, :, None], key[:, None, None])
