"""PyTorch's `scaled_dot_product_attention`, given what it lacks.

Namely bottom-right causal alignment, packed documents without an N×N mask, rows of different lengths, queries that see
no key, and decoding with grouped queries without copies of K and V.

B batch, T query tokens, S key tokens, H heads, K KV heads, G = H / K heads that share a KV head, D head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from arriero.kernels.documents import Documents
from arriero.kernels.options import Options
from arriero.kernels.reference import visible_keys


def attention_sdpa(q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
    """Attend from `q` (B, T, H, D) to `k`, `v` (B, S, K, D); returns (B, T, H, D).

    A window, a key mask, a block mask, or fewer queries than keys cost a T × S mask.
    """
    queries, keys, scale = q.shape[1], k.shape[1], options.scale
    if scale is not None and scale <= 0:
        q, scale = q * scale, 1.0  # PyTorch's own causal mask takes scale · (−∞), which is +∞ or NaN then
    masked = options.window is not None or options.key_mask is not None or options.block_mask is not None
    if masked:
        return _attend_masked(q, k, v, options, scale)
    if options.documents is not None:
        return _attend_documents(q, k, v, options.documents, options.causal, scale)
    if options.key_lengths is not None:
        return _attend_ragged(q, k, v, options.key_lengths, options.causal, scale)
    if queries == 1:
        return _attend_one_query(q, k, v, None, scale)
    if not options.causal or queries == keys:
        return _sdpa(q, k, v, None, options.causal, scale)
    if queries > keys:
        seen = _sdpa(q[:, queries - keys :], k, v, None, True, scale)  # (B, S, H, D)
        return F.pad(seen, (0, 0, 0, 0, queries - keys, 0))  # (B, T, H, D)
    visible = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)  # (T, S)
    return _sdpa(q, k, v, visible, False, scale)


def why_not_sdpa(options: Options) -> str | None:
    """What of these options PyTorch's function lacks; None if nothing."""
    if options.softcap is not None:
        return "PyTorch's attention has no soft cap"
    if options.dropout > 0:
        return "PyTorch's dropout takes no seed"
    return None


def _attend_masked(q: Tensor, k: Tensor, v: Tensor, options: Options, scale: float | None) -> Tensor:
    visible = visible_keys(q, k, options)  # (B, 1 or H, T, S)
    sees_any = visible.any(-1, keepdim=True)  # (B, 1 or H, T, 1)
    # A query without keys is shown all, and its output set to 0: a softmax over nothing is NaN, backward too.
    out = _sdpa(q, k, v, visible | ~sees_any, False, scale)
    return out.masked_fill(~sees_any.transpose(1, 2), 0.0)  # (B, T, H, D)


def _attend_documents(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents, causal: bool, scale: float | None
) -> Tensor:
    lengths = {end - start for _, start, end in documents.spans}
    if len(lengths) == 1:  # equal documents are a larger batch: one call, which is the faster way
        shape = (len(documents.spans), lengths.pop(), -1, q.shape[3])
        return _sdpa(q.reshape(shape), k.reshape(shape), v.reshape(shape), None, causal, scale).reshape(q.shape)
    outs = []
    for row, start, end in documents.spans:
        own = slice(row, row + 1), slice(start, end)
        outs.append(_sdpa(q[own], k[own], v[own], None, causal, scale))  # (1, document, H, D)
    return torch.cat(outs, dim=1).view(q.shape)


def _attend_ragged(q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor, causal: bool, scale: float | None) -> Tensor:
    queries, keys = q.shape[1], k.shape[1]
    last = key_lengths[:, None].expand(-1, queries) - 1  # (B, T) the last key each query sees
    if causal:
        last = last + torch.arange(1 - queries, 1, device=q.device)
    # A query without keys is shown key 0 and its output set to 0: a softmax over nothing is NaN, backward too.
    visible = torch.arange(keys, device=q.device) <= last.clamp(min=0)[..., None]  # (B, T, S)
    if queries == 1:
        out = _attend_one_query(q, k, v, visible, scale)
    else:
        out = _sdpa(q, k, v, visible[:, None], False, scale)
    return out.masked_fill(last[..., None, None] < 0, 0.0)  # (B, T, H, D)


def _attend_one_query(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, scale: float | None) -> Tensor:
    """Decoding: the G heads of a KV head become G queries of it; nothing is copied and the products are larger."""
    batch, _, heads, dim = q.shape
    grouped = q.reshape(batch, k.shape[2], heads // k.shape[2], dim)  # (B, K, G, D)
    mask = None if visible is None else visible[:, None]  # (B, 1, 1, S)
    out = F.scaled_dot_product_attention(grouped, k.transpose(1, 2), v.transpose(1, 2), mask, scale=scale)
    return out.reshape(q.shape)  # (B, 1, H, D)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """PyTorch's attention in our layout; `causal` is its own top-left alignment, right for T = S only."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or K, T or S, D)
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, visible, is_causal=causal, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2)  # (B, T, H, D)
