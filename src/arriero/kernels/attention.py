"""Exact attention, softmax(QKᵀ · scale) V, behind the one function that every module calls.

FlashAttention's contract (Dao et al. 2022, arXiv 2205.14135): exact, and memory linear in the sequence length. For now
PyTorch's `scaled_dot_product_attention` does the work; this file adds what it lacks: bottom-right causal alignment,
packed documents without an N×N mask, rows of different lengths, queries that see no key, and decoding with grouped
queries without copies of K and V. `reference.py` computes the same by an explicit softmax.

B batch, T query tokens, S key tokens, H heads, K KV heads, G = H / K heads that share a KV head, D head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from arriero.common.errors import ArrieroError

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

Spans = tuple[tuple[int, int, int], ...]
"""Documents of packed rows as (row, start, end), in order, covering every token once."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    segments: Tensor | Spans | None = None,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attend from `q` (B, T, H, D) to `k`, `v` (B, S, K, D), H a multiple of K; returns (B, T, H, D).

    Args:
        causal: query t sees keys up to S − T + t (aligned at the bottom right, as a cache needs). A query that sees no
            key gives 0: the first T − S of them when T > S.
        segments: (B, T) document number of each token, or what `document_spans` made of it; a token sees its own
            document only. One attention call a document, needs T = S, and a document's tokens must be neighbours.
        key_lengths: (B,) row b has the keys k[b, :key_lengths[b]] only, and its T queries end where those end.
        scale: factor of the scores, 1/√D by default.

    Raises:
        ArrieroError: naming the argument, what was expected and what came.
    """
    _check(q, k, v, segments, key_lengths)
    queries, keys = q.shape[1], k.shape[1]
    if q.numel() == 0 or keys == 0:
        return torch.zeros_like(q)
    if segments is not None:
        spans = document_spans(segments) if isinstance(segments, Tensor) else segments
        return _attend_documents(q, k, v, spans, causal, scale)
    if key_lengths is not None:
        return _attend_ragged(q, k, v, key_lengths, causal, scale)
    if queries == 1:
        return _attend_one_query(q, k, v, None, scale)
    if not causal or queries == keys:
        return _sdpa(q, k, v, None, causal, scale)
    if queries > keys:
        seen = _sdpa(q[:, queries - keys :], k, v, None, True, scale)  # (B, S, H, D)
        return F.pad(seen, (0, 0, 0, 0, queries - keys, 0))  # (B, T, H, D)
    visible = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)  # (T, S)
    return _sdpa(q, k, v, visible, False, scale)


def document_spans(segments: Tensor) -> Spans:
    """Where each document of packed rows begins and ends; compute it once a step, not once a layer.

    Raises:
        ArrieroError: a document number comes back after another one in the same row.
    """
    spans = []
    for row, numbers in enumerate(segments.tolist()):
        starts = [i for i, number in enumerate(numbers) if i == 0 or number != numbers[i - 1]]
        if len({numbers[i] for i in starts}) != len(starts):
            raise ArrieroError(
                f"segments: row {row} returns to a document after leaving it; a document's tokens must be neighbours"
            )
        spans += [(row, start, end) for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True)]
    return tuple(spans)


def _attend_documents(q: Tensor, k: Tensor, v: Tensor, spans: Spans, causal: bool, scale: float | None) -> Tensor:
    lengths = {end - start for _, start, end in spans}
    if len(lengths) == 1:  # equal documents are a larger batch: one call, which is the faster way
        shape = (len(spans), lengths.pop(), -1, q.shape[3])
        return _sdpa(q.reshape(shape), k.reshape(shape), v.reshape(shape), None, causal, scale).reshape(q.shape)
    documents = []
    for row, start, end in spans:
        own = slice(row, row + 1), slice(start, end)
        documents.append(_sdpa(q[own], k[own], v[own], None, causal, scale))  # (1, document, H, D)
    return torch.cat(documents, dim=1).view(q.shape)


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


def _check(q: Tensor, k: Tensor, v: Tensor, segments: Tensor | Spans | None, key_lengths: Tensor | None) -> None:
    if q.dim() != 4:
        raise ArrieroError(f"q: expected 4 dimensions (batch, tokens, heads, head dim), got shape {tuple(q.shape)}")
    if k.dim() != 4 or k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        raise ArrieroError(
            f"k: expected shape ({q.shape[0]}, tokens, KV heads, {q.shape[3]}) to go with q, got {tuple(k.shape)}"
        )
    if v.shape != k.shape:
        raise ArrieroError(f"v: expected k's shape {tuple(k.shape)}, got {tuple(v.shape)}")
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ArrieroError(f"q: expected heads in a multiple of the {k.shape[2]} KV heads, got {q.shape[2]} heads")
    if q.dtype not in DTYPES:
        raise ArrieroError(f"q: expected dtype float32, bfloat16, float16 or float64, got {q.dtype}")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype or x.device != q.device:
            raise ArrieroError(
                f"{name}: expected q's dtype {q.dtype} and device {q.device}, got {x.dtype} on {x.device}"
            )
    if segments is not None:
        if key_lengths is not None:
            raise ArrieroError("key_lengths: expected None together with segments, got a tensor")
        if q.shape[1] != k.shape[1]:
            raise ArrieroError(
                f"segments: expected as many keys as queries, got {k.shape[1]} keys and {q.shape[1]} queries"
            )
        if isinstance(segments, Tensor) and segments.shape != q.shape[:2]:
            raise ArrieroError(f"segments: expected shape {tuple(q.shape[:2])}, got {tuple(segments.shape)}")
    if key_lengths is not None and key_lengths.shape != q.shape[:1]:
        raise ArrieroError(f"key_lengths: expected shape ({q.shape[0]},), got {tuple(key_lengths.shape)}")
