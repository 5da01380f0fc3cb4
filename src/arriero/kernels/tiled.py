"""FlashAttention in plain PyTorch: exact attention by tiles of scores, in memory linear in the sequence length.

Dao et al. 2022, arXiv 2205.14135. `_forward` is Algorithms 1 and 2 (and 5, for a block mask), `_backward` Algorithm 4;
line numbers stand beside the code. What differs from the paper, and why:

- Queries are the outer loop of both passes, as in FlashAttention-2's forward pass (Dao 2023, arXiv 2307.08691): O and
  dQ of a tile stay at hand while the keys pass by. The division by ℓ waits until the last of them.
- Of m and ℓ only L = m + log ℓ is kept. Exponentials are those of base 2, on a CPU four times as fast as those of base
  e; log₂ e goes into the factor of the queries.
- The backward pass has transposed tiles (keys × queries): −L and −D are biases then, which the product adds on the way.
- Tiles suit a CPU's caches, and the G heads that share a KV head are rows of one product.

B batch, T query tokens, S key tokens, H heads, K KV heads, D head dim; of a tile: s keys, and R rows, those of each
query in each of the G heads.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from arriero.kernels.linear import onednn, uses_onednn
from arriero.kernels.options import Options
from arriero.kernels.tiles import QueryTile, sequences

ROWS, KEYS = 768, 512
"""Of a tile, by measurement: few enough for the second-level cache, enough to make the calls' cost small."""
LOWEST = -1e30
"""Where m starts: unlike −∞, it may be subtracted from a hidden score."""
LOG_2 = math.log(2)


def attention_tiled(q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Attend from `q` (B, T, H, D) to `k`, `v` (B, S, K, D), on any device; computes in fp32, or fp64 for fp64 inputs.

    Returns:
        O (B, T, H, D) in q's dtype and L (B, H, T), both differentiable.
    """
    queries = ROWS * k.shape[2] // q.shape[2]
    return attention_by_blocks(q, k, v, options, 1 << max(queries, 16).bit_length() - 1, KEYS)


def attention_by_blocks(
    q: Tensor, k: Tensor, v: Tensor, options: Options, block_queries: int, block_keys: int
) -> tuple[Tensor, Tensor]:
    """`attention_tiled` by tiles of so many queries, or of those of the block mask's blocks, and of so many keys."""
    out, log_sum = _TiledAttention.apply(q, k, v, options, (block_queries, block_keys))  # type: ignore[no-untyped-call]
    return out, log_sum


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, options: Options, blocks: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(q.device.type, enabled=False):
            out, log_sum = _forward(q, k, v, options, blocks)
        ctx.save_for_backward(q, k, v, out, log_sum)  # in base 2: changing it there and back would round it twice
        ctx.options, ctx.blocks = options, blocks
        ctx.set_materialize_grads(False)
        return out, log_sum * LOG_2

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_out: Tensor | None, grad_log_sum: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, log_sum = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros_like(out)
        with torch.autocast(q.device.type, enabled=False):
            grads = _backward((q, k, v), out, log_sum, grad_out, grad_log_sum, ctx.options, ctx.blocks)
        return *grads, None, None


def _forward(q: Tensor, k: Tensor, v: Tensor, options: Options, blocks: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """O (B, T, H, D) and L · log₂ e (B, H, T)."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    dtype = torch.promote_types(q.dtype, torch.float32)
    log_sum = torch.empty(q.shape[0], q.shape[2], q.shape[1], dtype=dtype, device=q.device)
    factor, _ = _factors(q, options)
    for sequence in sequences(q, k, options, blocks):
        for kv_head in range(k.shape[2]):
            keys, values = sequence.load_keys(k, kv_head), sequence.load_keys(v, kv_head)  # (S, D)
            for tile in sequence.query_tiles(kv_head):
                o, m, ell = _attend(tile, tile.load(q) * factor, keys, values, options)
                tile.store(out, o)
                tile.store(log_sum.transpose(1, 2), m + ell.log2())
    return out, log_sum


def _attend(tile: QueryTile, q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 2 for the tile of `q` (R, D) and all keys `k`, `v` (S, D): O (R, D), and m, ℓ (R,)."""
    o = torch.zeros_like(q)
    m, ell = q.new_full((len(q),), LOWEST), q.new_zeros(len(q))
    for keys, hidden in tile.key_tiles():
        s = _product(q, k[keys])  # (R, s), lines 9 and 10
        if options.softcap is not None:
            s.tanh_().mul_(options.softcap / LOG_2)
        if hidden is not None:
            tile.by_head(s).add_(hidden)  # line 11
        m_new = torch.maximum(m, s.amax(1))
        p = s.sub_(m_new[:, None]).exp2_()  # line 12: P̃ = exp(S − m)
        rescale = m.sub_(m_new).exp2_()
        m, ell = m_new, ell.mul_(rescale).add_(p.sum(1))  # line 13: ℓ = e^(m_old − m) ℓ_old + rowsum(P̃)
        if options.dropout > 0:
            tile.by_head(p).mul_(tile.kept(keys))  # line 14
        o = o.mul_(rescale[:, None]).add_(_product(p, v[keys].T))  # line 15: O = e^(m_old − m) O_old + P̃V
    # ℓ is 0 for a query without keys, and 1 or more for the others: the greatest of their scores adds 1.
    o /= ell.clamp(min=1)[:, None] * (1 - options.dropout)
    return o, m, ell


def _backward(
    qkv: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    log_sum: Tensor,
    grad_out: Tensor,
    grad_log_sum: Tensor | None,
    options: Options,
    blocks: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv
    grad_q, grad_k, grad_v = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in qkv)
    factor, unfactor = _factors(q, options)
    for sequence in sequences(q, k, options, blocks, transposed=True):
        for kv_head in range(k.shape[2]):
            keys, values = sequence.load_keys(k, kv_head), sequence.load_keys(v, kv_head)  # (S, D)
            dk, dv = torch.zeros_like(keys), torch.zeros_like(values)  # (S, D)
            for tile in sequence.query_tiles(kv_head):
                do = tile.load(grad_out)  # (R, D)
                d = (do * tile.load(out)).sum(1)  # (R,), line 19
                if grad_log_sum is not None:
                    d -= tile.load(grad_log_sum.transpose(1, 2))  # for ∂L/∂S = P: dS = P ∘ (dP − D + dL)
                log = tile.load(log_sum.transpose(1, 2))  # (R,)
                unseen = log == -torch.inf
                log, d = log.masked_fill(unseen, torch.inf), d.masked_fill(unseen, 0)  # P = 0, whatever dL is
                dq = _attend_back(tile, tile.load(q) * factor, (keys, values), (do, log, d), (dk, dv), options)
                tile.store(grad_q, dq.T * (factor * unfactor))
            sequence.store_keys(grad_k, kv_head, dk * unfactor)
            sequence.store_keys(grad_v, kv_head, dv)
    return grad_q, grad_k, grad_v


def _attend_back(
    tile: QueryTile,
    q: Tensor,
    kv: tuple[Tensor, Tensor],
    of_queries: tuple[Tensor, Tensor, Tensor],
    grads: tuple[Tensor, Tensor],
    options: Options,
) -> Tensor:
    """Algorithm 4 for a tile of `q` (R, D) with dO (R, D), L and D (R,): adds to dK and dV (S, D); returns dQᵀ (D, R).

    P, dP and dS are transposed, (s, R).
    """
    (k, v), (do, log, d), (dk, dv) = kv, of_queries, grads
    dq = q.new_zeros(q.shape[1], q.shape[0])  # (D, R)
    for keys, hidden in tile.key_tiles():
        if options.softcap is None:
            s = _product(k[keys], q, -log)  # (s, R), line 11, and line 13's subtraction
        else:
            tanh = _product(k[keys], q).tanh_()
            s = (tanh * (options.softcap / LOG_2)).sub_(log)
        if hidden is not None:
            tile.by_head(s).add_(hidden)  # line 12
        p = s.exp2_()  # line 13: P = exp(S − L)
        if options.dropout == 0:
            dv[keys] += _product(p, do.T)  # line 16: dV += PᵀdO
            ds = _product(v[keys], do, -d).mul_(p)  # lines 17 and 20: dS = P ∘ (dP − D), with dP = dO Vᵀ
        else:
            z = tile.kept(keys).to(p.dtype).flatten(1) / (1 - options.dropout)  # (s, R), line 14
            dv[keys] += _product(p * z, do.T)  # lines 15 and 16
            ds = _product(v[keys], do).mul_(z).sub_(d).mul_(p)  # lines 17, 18 and 20
        if options.softcap is not None:
            ds.mul_(1 - tanh * tanh)
        dq += _product(k[keys].T, ds.T)  # line 21: dQ += dS K
        dk[keys] += _product(ds, q.T)  # line 22: dK += dSᵀQ
    return dq


def _product(x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x` (M, C) times the transposed `y` (N, C), plus `bias` (N,); (M, N)."""
    if uses_onednn(x, y):
        return onednn(x, y, bias)
    return x @ y.T if bias is None else torch.addmm(bias, x, y.T)


def _factors(q: Tensor, options: Options) -> tuple[float, float]:
    """What the queries are multiplied with, so that a tile's scores are ready for exp2 or tanh; and scale over that."""
    unfactor = LOG_2 if options.softcap is None else options.softcap
    return options.scale_of(q) / unfactor, unfactor
