"""Attention as the formula has it: every option of `attention`, by an explicit softmax over all T × S scores.

Algorithm 0 of FlashAttention (Dao et al. 2022, arXiv 2205.14135): S = QKᵀ · scale, P = softmax(S), O = PV. Slow, and
Θ(T · S) in memory; the tests hold the fast path against it.

B batch, T query tokens, S key tokens, H heads, K KV heads, D head dim.
"""

import math

import torch
from torch import Tensor


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    segments: Tensor | None = None,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """The arguments and result of `arriero.kernels.attention.attention`; computed in fp32, in fp64 for fp64 inputs."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    group = q.shape[2] // k.shape[2]
    keys = k.to(dtype).repeat_interleave(group, dim=2)  # (B, S, H, D)
    values = v.to(dtype).repeat_interleave(group, dim=2)  # (B, S, H, D)
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale

    scores = torch.einsum("bthd,bshd->bhts", q.to(dtype), keys) * scale  # (B, H, T, S)
    visible = visible_keys(q, k, causal=causal, segments=segments, key_lengths=key_lengths)[:, None]  # (B, 1, T, S)
    weights = torch.softmax(scores.masked_fill(~visible, -1e30), dim=-1)  # (B, H, T, S)
    weights = weights.masked_fill(~visible, 0.0)  # a query that sees no key has no weights, so it gives 0
    return torch.einsum("bhts,bshd->bthd", weights, values).to(q.dtype)  # (B, T, H, D)


def visible_keys(
    q: Tensor, k: Tensor, *, causal: bool, segments: Tensor | None = None, key_lengths: Tensor | None = None
) -> Tensor:
    """Which keys each query sees: (B, T, S), bool."""
    batch, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    lengths = torch.full((batch,), keys, device=q.device) if key_lengths is None else key_lengths  # (B,)
    key = torch.arange(keys, device=q.device)  # (S,)
    visible = (key < lengths[:, None])[:, None].expand(batch, queries, keys)  # (B, T, S)
    if causal:
        position = lengths[:, None] - queries + torch.arange(queries, device=q.device)  # (B, T)
        visible = visible & (key <= position[..., None])
    if segments is not None:
        visible = visible & (segments[:, :, None] == segments[:, None, :])
    return visible
