"""Attention of decoding over a paged KV cache: a row's keys lie in pages of one pool, in any order.

PagedAttention (Kwon et al. 2023, arXiv 2309.06180): a table says which page of the pool holds each stretch of a row's
keys, so that rows of any length share the memory without gaps. `_gather` is the definition: put the pages in a row,
and attend as always. On a GPU, `flash_decode.py` reads the pages where they lie.

B batch, T query tokens, H heads, K KV heads, D head dim, P pages of the pool, N pages of the longest row, S = N · page.
"""

import os

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.kernels.attention import FORCE, Implementation, attention, why_not
from arriero.kernels.options import DTYPES, Options


def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    page_table: Tensor,
    lengths: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    implementation: Implementation | None = None,
) -> Tensor:
    """Attend from each row's T newest tokens, `q` (B, T, H, D), to all its tokens so far; returns (B, T, H, D).

    The queries are the last T of the row's `lengths` tokens, and each sees the keys up to its own: causal. A row of
    length 0, an idle slot, gives 0. For inference only: there are no gradients.

    Args:
        k_pages, v_pages: (P, page, K, D) the pools, H a multiple of K; any strides, such as those of a layer's slice.
        page_table: (B, N) int32 or int64: keys s · page to (s + 1) · page of row b lie in page page_table[b, s] of the
            pools. Entries beyond a row's length, or before all that the window lets it see, may be anything.
        lengths: (B,) int32 or int64: keys of each row, the T new ones included, at most N · page.
        scale: factor of the scores, 1/√D by default.
        window: tokens that a query sees, itself included: a sliding window.
        softcap: scores x become softcap · tanh(x / softcap).
        implementation: force one; the environment's `ARRIERO_ATTENTION` does so for all calls that name none. All but
            "triton" first copy the pages into one tensor.

    Raises:
        ArrieroError: naming the argument, what was expected and what came; or why the forced implementation can't. What
            `page_table` and `lengths` hold is checked on a CPU only: on a GPU that would wait for it.
    """
    options = Options(scale=scale, window=window, softcap=softcap)
    fault = _fault_of_pools(q, k_pages, v_pages) or _fault_of_rows(q, k_pages, page_table, lengths, window)
    if fault:
        raise ArrieroError(fault)
    if q.numel() == 0 or k_pages.numel() == 0 or page_table.numel() == 0:
        return torch.zeros_like(q)
    if _choose_triton(q, k_pages, v_pages, options, implementation):
        from arriero.kernels.flash_decode import flash_decode  # not before it is needed: it imports triton

        return flash_decode(q, k_pages, v_pages, page_table, lengths, options)
    needed = _needed_keys(q, k_pages, page_table, lengths, window)
    k, v = _gather(k_pages, page_table, needed), _gather(v_pages, page_table, needed)
    return attention(
        q, k, v, scale=scale, window=window, softcap=softcap, key_lengths=lengths, implementation=implementation
    )


def _choose_triton(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, options: Options, implementation: Implementation | None
) -> bool:
    """Whether our kernel serves this call: on a GPU if it can, and where it is forced."""
    forced = implementation or os.environ.get(FORCE)
    if forced != "triton" and (forced or not q.is_cuda):
        return False
    reason = why_not("triton", q, options)
    if reason is None and not k_pages.stride(3) == v_pages.stride(3) == 1:
        reason = "the kernel needs pages whose head dim is contiguous"
    if reason and forced:
        raise ArrieroError(f"paged attention by 'triton' was forced, but {reason}; unset {FORCE} or force another")
    return reason is None


def _needed_keys(q: Tensor, k_pages: Tensor, page_table: Tensor, lengths: Tensor, window: int | None) -> Tensor:
    """Which keys some query sees: (B, S), bool."""
    key = torch.arange(page_table.shape[1] * k_pages.shape[1], device=q.device)  # (S,)
    needed = key < lengths[:, None]
    if window is not None:
        needed = needed & (key > lengths[:, None] - q.shape[1] - window)
    return needed


def _used_entries(needed: Tensor, page_table: Tensor, page: int) -> Tensor:
    """Which entries of the table stand for a page that is needed: (B, N), bool."""
    return needed.view(*page_table.shape, page).any(-1)  # (B, N)


def _gather(pages: Tensor, page_table: Tensor, needed: Tensor) -> Tensor:
    """The rows' keys, or values, one after the other: (B, S, K, D), 0 where none is needed."""
    table = page_table.where(_used_entries(needed, page_table, pages.shape[1]), 0)  # (B, N)
    rows = pages[table].flatten(1, 2)  # (B, S, K, D)
    return rows.masked_fill_(~needed[..., None, None], 0.0)  # a weight of 0 times what was never written may be NaN


def _fault_of_pools(q: Tensor, k_pages: Tensor, v_pages: Tensor) -> str | None:
    if q.dim() != 4:
        return f"q: expected 4 dimensions (batch, tokens, heads, head dim), got shape {tuple(q.shape)}"
    if q.dtype not in DTYPES:
        return f"q: expected dtype float32, bfloat16, float16 or float64, got {q.dtype}"
    if k_pages.dim() != 4 or k_pages.shape[1] == 0 or k_pages.shape[3] != q.shape[3]:
        return (
            f"k_pages: expected shape (pages, 1 token a page or more, KV heads, {q.shape[3]}) to go with q, "
            f"got {tuple(k_pages.shape)}"
        )
    if v_pages.shape != k_pages.shape:
        return f"v_pages: expected k_pages' shape {tuple(k_pages.shape)}, got {tuple(v_pages.shape)}"
    if k_pages.shape[2] == 0 or q.shape[2] % k_pages.shape[2]:
        return f"q: expected heads in a multiple of the {k_pages.shape[2]} KV heads, got {q.shape[2]} heads"
    for name, x in (("k_pages", k_pages), ("v_pages", v_pages)):
        if x.dtype != q.dtype:
            return f"{name}: expected q's dtype {q.dtype}, got {x.dtype}"
        if x.device != q.device:
            return f"{name}: expected q's device {q.device}, got {x.device}"
    if torch.is_grad_enabled():
        for name, x in (("q", q), ("k_pages", k_pages), ("v_pages", v_pages)):
            if x.requires_grad:
                return f"{name}: expected inference, got a tensor that requires gradients; use torch.no_grad()"
    return None


def _fault_of_rows(q: Tensor, k_pages: Tensor, page_table: Tensor, lengths: Tensor, window: int | None) -> str | None:
    batch, page = q.shape[0], k_pages.shape[1]
    if page_table.dim() != 2 or page_table.shape[0] != batch:
        return f"page_table: expected shape ({batch}, pages of the longest row), got {tuple(page_table.shape)}"
    if lengths.shape != (batch,):
        return f"lengths: expected shape ({batch},), got {tuple(lengths.shape)}"
    for name, x in (("page_table", page_table), ("lengths", lengths)):
        if x.dtype not in (torch.int64, torch.int32):
            return f"{name}: expected int64 or int32, got {x.dtype}"
        if x.device != q.device:
            return f"{name}: expected q's device {q.device}, got {x.device}"
    if q.device.type != "cpu":
        return None
    pages = page_table.shape[1]
    wrong = lengths[(lengths < 0) | (lengths > pages * page)]
    if len(wrong):
        return f"lengths: expected 0 to {pages * page} keys ({pages} pages of {page} tokens), got {int(wrong[0])}"
    needed = _needed_keys(q, k_pages, page_table, lengths, window)
    entries = page_table[_used_entries(needed, page_table, page)]
    wrong = entries[(entries < 0) | (entries >= len(k_pages))]
    if len(wrong):
        return f"page_table: expected pages 0 to {len(k_pages) - 1} up to each row's length, got {int(wrong[0])}"
    return None
