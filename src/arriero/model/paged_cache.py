"""Keys and values in pages: rows of any length share one pool, and rows that begin alike share pages.

PagedAttention (Kwon et al. 2023, arXiv 2309.06180): token t of a row lies in the page that its table names at t // 16,
slot t % 16. Which pages are whose is decided elsewhere; here spans of new tokens are stored, and attend to their rows.

A step's tokens go through the model flat, as N rows of one token; only attention knows which of them belong together.

L layers, P pages, K KV heads, H heads, G = H / K, D head dim, N tokens of a step, B spans of a group, T tokens of each,
M pages of the longest, S = M · PAGE key tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from arriero.common.errors import ArrieroError
from arriero.kernels.attention import attention
from arriero.kernels.documents import Documents
from arriero.kernels.native.build import why_not_native
from arriero.kernels.native.library import MAX_GROUP, MAX_HEAD_DIM, attend
from arriero.kernels.paged import paged_attention
from arriero.model.config import LlamaConfig

PAGE = 16
"""Tokens of a page."""
_FEW = 16  # tokens of a row up to which compiled attention is faster than PyTorch's over copies of the pages
_SLACK = 64  # pages that a group of spans may read in vain, beyond half of what it reads


@dataclass(frozen=True, slots=True)
class Span:
    """The new tokens of one row: one that decodes, a chunk of a prompt, or a guess at an answer."""

    tokens: Sequence[int]
    """At least one."""
    start: int
    """Tokens of the row already in the cache."""
    pages: Sequence[int]
    """The row's page table, long enough for start + len(tokens)."""
    wanted: int = 1
    """Logits of its last `wanted` tokens are wanted; 0: none."""
    adapter: str | None = None
    """By default the active one."""
    prompt: int = 0
    """Tokens of the row's whole prompt: dynamic RoPE turns all of them by the prompt's length, however it is cut."""


@dataclass(frozen=True)
class _Group:
    """Spans of equal length that attend in one call."""

    rows: Tensor | slice
    """Their places among the step's tokens, (B·T,)."""
    shape: tuple[int, int]
    """B and T."""
    table: Tensor
    """(B, M), padded with any page."""
    lengths: Tensor
    """Keys of each row, its new ones included: (B,)."""
    keys: int
    """Of the longest row."""
    stripes: Tensor
    """Where each row's heads lie in the pool as (P·K, PAGE·D): (B·K·M,)."""
    mask: Tensor | None
    """(B, 1, 1, S) 0 or −∞, where T is 1 and the rows are of different lengths."""
    fresh: bool
    """Nothing of these rows is in the cache before."""
    tables: list[Tensor]
    """Each row's of the table, int32, where compiled code reads it: few tokens of a row, fp32 on a CPU."""
    starts: list[int]
    """Keys of each row before its new ones."""


class PagedCache:
    """A pool of `pages` pages. On a CPU, a page takes memory once it is written."""

    def __init__(
        self,
        config: LlamaConfig,
        pages: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.n_layers, pages, config.n_kv_heads, PAGE, config.head_dim)
        self.config = config
        self.k = _reserve(shape, dtype, torch.device(device))  # (L, P, K, PAGE, D)
        self.v = _reserve(shape, dtype, torch.device(device))  # (L, P, K, PAGE, D)
        self._layers = list(zip(self.k.unbind(), self.v.unbind(), strict=True))
        fits = self.k.device.type == "cpu" and dtype == torch.float32 and config.head_dim % PAGE == 0
        fits = fits and config.head_dim <= MAX_HEAD_DIM and config.n_heads <= MAX_GROUP * config.n_kv_heads
        self._compiled = fits and why_not_native() is None
        self._groups: list[_Group] = []
        self._positions = self._lengths = self._pages = self._slots = torch.empty(0)  # (N,) of the step under way

    def begin(self, spans: Sequence[Span]) -> None:
        """Place a step's tokens: those of the spans, one span after the other."""
        count = sum(len(span.tokens) for span in spans)
        placed = np.empty((4, count), dtype=np.int64)  # positions, lengths, pages, slots
        positions, lengths, pages, slots = placed
        offsets, at = [], 0
        for span in spans:
            start, end = span.start, span.start + len(span.tokens)
            offsets.append(at)
            if end - start == 1:
                positions[at], pages[at] = start, span.pages[start // PAGE]
            else:
                own = slice(at, at + end - start)
                positions[own] = np.arange(start, end)
                table = np.asarray(span.pages[start // PAGE : (end - 1) // PAGE + 1])
                pages[own] = table[positions[own] // PAGE - start // PAGE]
            lengths[at : at + end - start] = span.prompt
            at += end - start
        np.maximum(lengths, positions + 1, out=lengths)
        np.remainder(positions, PAGE, out=slots)
        device = self.k.device
        self._positions, self._lengths, self._pages, self._slots = torch.from_numpy(placed).to(device).unbind()
        self._groups = [self._group(spans, offsets, chosen) for chosen in _plan_groups(spans)]

    def place(
        self, tokens: Tensor, documents: Documents | None, prompt_lengths: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Positions (N, 1) of the step's tokens (N, 1), and the lengths by which dynamic RoPE turns them (N,).

        Raises:
            ArrieroError: the tokens are not those that `begin` placed, or came with documents or lengths.
        """
        expected = (len(self._positions), 1)
        if tokens.shape != expected or documents is not None or prompt_lengths is not None:
            raise ArrieroError(
                f"tokens: expected shape {expected} as placed in the pages, without documents and prompt_lengths, "
                f"got {tuple(tokens.shape)}"
            )
        return self._positions[:, None], self._lengths

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store a layer's new `k` and `v` (N, 1, K, D), and attend from `q` (N, 1, H, D) to all that each row has."""
        keys, values = self._layers[layer]  # (P, K, PAGE, D)
        keys[self._pages, :, self._slots] = k[:, 0].to(keys.dtype)
        values[self._pages, :, self._slots] = v[:, 0].to(values.dtype)
        if len(self._groups) == 1:
            return self._attend(self._groups[0], layer, q, k, v)
        out = torch.empty_like(q)
        for group in self._groups:
            rows = group.rows
            out[rows] = self._attend(group, layer, q[rows], k[rows], v[rows])
        return out

    def finish(self, new_lengths: Sequence[int] | None = None) -> None:
        """The step is over; who owns the pages counts their tokens."""

    def copy(self, source: int, target: int) -> None:
        """Write one page's keys and values into another."""
        self.k[:, target], self.v[:, target] = self.k[:, source], self.v[:, source]

    def clear(self, pages: Sequence[int]) -> None:
        """Zeros instead of what another row has left: a masked key has weight 0, but 0 · NaN would be NaN."""
        if pages:
            index = torch.tensor(pages, device=self.k.device)
            self.k[:, index], self.v[:, index] = 0, 0

    def _attend(self, group: _Group, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One group's attention: q (B·T, 1, H, D) to its rows' keys; k and v are the new ones.  (B·T, 1, H, D)"""
        shape = (*group.shape, -1, q.shape[3])
        if group.fresh:
            out = attention(q.view(shape), k.view(shape), v.view(shape))  # (B, T, H, D)
        elif group.tables:
            pools = self._layers[layer]
            out = attend(q.view(shape), *pools, group.tables, group.starts, 1 / math.sqrt(q.shape[3]))  # (B, T, H, D)
        elif q.device.type == "cpu":
            keys, values = (self._gather(group, pool).to(q.dtype) for pool in self._layers[layer])  # (B, K, S, D)
            if group.shape[1] == 1:
                mask = None if group.mask is None else group.mask.to(q.dtype)
                return _attend_decoding(q, keys, values, mask)
            lengths = group.lengths if group.shape[0] > 1 else None
            out = attention(q.view(shape), keys.transpose(1, 2), values.transpose(1, 2), key_lengths=lengths)
        else:
            k_pages, v_pages = (pool.transpose(1, 2) for pool in self._layers[layer])  # (P, PAGE, K, D)
            out = paged_attention(q.view(shape), k_pages, v_pages, group.table, group.lengths)  # (B, T, H, D)
        return out.reshape(q.shape)

    def _gather(self, group: _Group, pool: Tensor) -> Tensor:
        """The rows' keys, or values, one after the other: (B, K, S, D) up to the longest row's last."""
        kv_heads, dim = pool.shape[1], pool.shape[3]
        stripes = pool.view(-1, PAGE * dim).index_select(0, group.stripes)  # (B·K·M, PAGE·D)
        return stripes.view(group.shape[0], kv_heads, -1, dim)[:, :, : group.keys]

    def _group(self, spans: Sequence[Span], offsets: Sequence[int], chosen: Sequence[int]) -> _Group:
        batch, tokens = len(chosen), len(spans[chosen[0]].tokens)
        ends = [spans[i].start + tokens for i in chosen]
        keys = max(ends)
        table = np.zeros((batch, -(-keys // PAGE)), dtype=np.int64)
        for row, (i, end) in enumerate(zip(chosen, ends, strict=True)):
            used = -(-end // PAGE)
            table[row, :used] = spans[i].pages[:used]
        kv_heads = self.config.n_kv_heads
        stripes = (table[:, None] * kv_heads + np.arange(kv_heads)[:, None]).ravel()  # (B·K·M,)
        mask = None
        if tokens == 1 and min(ends) < keys:
            visible = np.arange(keys) < np.array(ends)[:, None]  # (B, S)
            mask = torch.from_numpy(np.where(visible, 0, -np.inf)).to(self.k.device, self.k.dtype)[:, None, None]
        places = np.array([offsets[i] for i in chosen])
        rows: Tensor | slice = slice(int(places[0]), int(places[0]) + batch * tokens)
        if (np.diff(places) != tokens).any():
            rows = torch.from_numpy((places[:, None] + np.arange(tokens)).ravel()).to(self.k.device)
        fresh = tokens > 1 and keys == tokens
        compiled = self._compiled and tokens <= _FEW and not fresh
        return _Group(
            rows=rows,
            shape=(batch, tokens),
            table=torch.from_numpy(table).to(self.k.device),
            lengths=torch.tensor(ends, device=self.k.device),
            keys=keys,
            stripes=torch.from_numpy(stripes).to(self.k.device),
            mask=mask,
            fresh=fresh,
            tables=list(torch.from_numpy(table.astype(np.int32))) if compiled else [],
            starts=[end - tokens for end in ends],
        )


def _plan_groups(spans: Sequence[Span]) -> list[list[int]]:
    """Which spans attend in one call: of one length, and so that little is padding; those that begin a row apart."""
    alike: dict[tuple[int, bool], list[int]] = {}
    for i, span in enumerate(spans):
        tokens = len(span.tokens)
        alike.setdefault((tokens, tokens > 1 and span.start == 0), []).append(i)
    groups: list[list[int]] = []
    for (tokens, fresh), members in alike.items():
        if fresh or len(members) == 1:
            groups.append(members)
            continue
        longest = read = 0
        for i in sorted(members, key=lambda i: -spans[i].start):
            pages = (spans[i].start + tokens - 1) // PAGE + 1
            read += pages
            if longest and (len(groups[-1]) + 1) * longest <= 2 * read + _SLACK:
                groups[-1].append(i)
            else:
                groups.append([i])
                longest = read = pages
    return [sorted(group) for group in groups]


def _attend_decoding(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The heads that share a KV head become queries of it: q (B, 1, H, D), k and v (B, K, S, D).  (B, 1, H, D)"""
    grouped = q.view(len(k), k.shape[1], -1, q.shape[3])  # (B, K, G, D)
    return functional.scaled_dot_product_attention(grouped, k, v, mask).reshape(q.shape)


def _reserve(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, (…), that on a CPU the system hands out page by page as they are written, on a cache line's boundary."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    begin = -raw.ctypes.data % 64
    return torch.from_numpy(raw[begin : begin + size]).view(dtype).view(*shape)
