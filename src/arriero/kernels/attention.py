"""Exact attention, softmax(QKᵀ · scale) V, behind the one function that every module calls.

FlashAttention's contract (Dao et al. 2022, arXiv 2205.14135): exact, and memory linear in the sequence length.
`reference.py` says what is computed; `choose` picks who computes it.

B batch, T query tokens, S key tokens, H heads, K KV heads, D head dim.
"""

import os
from functools import cache
from importlib import import_module
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError, did_you_mean
from arriero.kernels.block_mask import BlockMask
from arriero.kernels.documents import Documents
from arriero.kernels.options import Options, check_arguments
from arriero.kernels.reference import attention_reference
from arriero.kernels.sdpa import attention_sdpa, why_not_sdpa
from arriero.kernels.tiled import attention_tiled

Implementation = Literal["reference", "tiled", "triton", "sdpa"]
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)
FORCE = "ARRIERO_ATTENTION"
"""Environment variable that forces one of the implementations."""
LONG = 1152
"""Tokens times heads of a KV head, from which on the tiles beat PyTorch's attention on a CPU in float32."""
THREADS = 4
"""Above this many, PyTorch's attention stays: it shares heads among threads, the tiles share each product."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    documents: Documents | None = None,
    key_lengths: Tensor | None = None,
    key_mask: Tensor | None = None,
    block_mask: BlockMask | None = None,
    deterministic: bool = True,
    implementation: Implementation | None = None,
) -> Tensor:
    """Attend from `q` (B, T, H, D) to `k`, `v` (B, S, K, D), H a multiple of K; returns (B, T, H, D).

    A query that sees no key gives 0, and gets and gives no gradient.

    Args:
        causal: query t sees keys up to S − T + t (aligned at the bottom right, as a cache needs).
        scale: factor of the scores, 1/√D by default.
        window: tokens that a query sees, itself included: a sliding window.
        softcap: scores x become softcap · tanh(x / softcap).
        dropout: share of the weights to drop, those that `seed` decides; the others are divided by 1 − dropout.
        documents: documents packed into the rows; a token sees its own only. Needs T = S.
        key_lengths: (B,) 0 to S; row b has the keys k[b, :key_lengths[b]] only, and its T queries end where those end.
        key_mask: (B, S) bool, true where there is a key.
        block_mask: blocks of the scores to compute; the others count as masked.
        deterministic: whether the backward pass must give the same bits each time.
        implementation: force one; the environment's `ARRIERO_ATTENTION` does so for all calls that name none.

    Raises:
        ArrieroError: naming the argument, what was expected and what came; or why the forced implementation can't.
    """
    options = Options(
        causal=causal,
        scale=scale,
        window=window,
        softcap=softcap,
        dropout=dropout,
        seed=seed,
        documents=documents,
        key_lengths=key_lengths,
        key_mask=key_mask,
        block_mask=block_mask,
        deterministic=deterministic,
    )
    check_arguments(q, k, v, options)
    if q.numel() == 0 or k.shape[1] == 0:
        return torch.zeros_like(q)
    chosen = choose(q, options, implementation, group=q.shape[2] // k.shape[2])
    if chosen == "sdpa":
        return attention_sdpa(q, k, v, options)
    return _compute(q, k, v, options, chosen)[0]


def attention_with_log_sum(
    q: Tensor, k: Tensor, v: Tensor, options: Options, implementation: Implementation | None = None
) -> tuple[Tensor, Tensor]:
    """`attention`, and L (B, H, T) beside it: the log of each softmax's normaliser, −∞ for a query without keys.

    With L, the outputs over parts of the keys can be merged into that over all; both results are differentiable.
    """
    check_arguments(q, k, v, options)
    if q.numel() == 0 or k.shape[1] == 0:
        dtype = torch.promote_types(q.dtype, torch.float32)
        return torch.zeros_like(q), q.new_full((q.shape[0], q.shape[2], q.shape[1]), -torch.inf, dtype=dtype)
    return _compute(q, k, v, options, choose(q, options, implementation, log_sum=True))


def choose(
    q: Tensor, options: Options, forced: Implementation | None = None, log_sum: bool = False, group: int = 1
) -> Implementation:
    """Who computes this call: the one place where that is decided.

    On a GPU our Triton kernels. Where they can't (no triton, fp64) and on a CPU, PyTorch's attention for what it does
    without a T × S mask, and the tiles for everything else; and for long float32 rows and documents, where they are
    measurably faster (benchmarks/RESULTS.md): from 1,152 tokens on, or a third of that where `group` = 3 heads share a
    KV head.

    Raises:
        ArrieroError: the forced implementation can't serve this call, and why.
    """
    forced = forced or cast(Implementation | None, os.environ.get(FORCE))
    if forced:
        reason = why_not(forced, q, options, log_sum)
        if reason:
            raise ArrieroError(f"attention by '{forced}' was forced, but {reason}; unset {FORCE} or force another")
        return forced
    if q.is_cuda and why_not("triton", q, options, log_sum) is None:
        return "triton"
    masked = options.window is not None or options.key_mask is not None or options.block_mask is not None
    tokens = q.shape[1] if options.documents is None else options.documents.typical_length
    fast = q.dtype == torch.float32 and q.device.type == "cpu" and torch.get_num_threads() <= THREADS
    long = fast and options.key_lengths is None and tokens * group >= LONG
    if masked or long or why_not("sdpa", q, options, log_sum):
        return "tiled"
    return "sdpa"


def why_not(implementation: str, q: Tensor, options: Options, log_sum: bool = False) -> str | None:
    """Why this implementation can't serve a call; None if it can."""
    match implementation:
        case "reference" | "tiled":
            return None
        case "sdpa":
            return "PyTorch's attention doesn't give the log-sum-exp" if log_sum else why_not_sdpa(options)
        case "triton":
            if reason := _why_no_triton():
                return reason
            from arriero.kernels.flash import why_not_triton

            return why_not_triton(q)
        case _:
            known = ", ".join(IMPLEMENTATIONS)
            return f"there is none of that name{did_you_mean(implementation, IMPLEMENTATIONS)}; there are {known}"


@cache
def _why_no_triton() -> str | None:
    """Why the package can't be imported; None if it can."""
    try:
        import_module("triton")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "triton":
            return "the package 'triton' is missing: pip install 'arriero[triton]'"
        return f"the package 'triton' can't be imported: {error}"
    return None


def _compute(q: Tensor, k: Tensor, v: Tensor, options: Options, chosen: Implementation) -> tuple[Tensor, Tensor]:
    match chosen:
        case "triton":
            from arriero.kernels.flash import attention_flash  # not before it is needed: it imports triton

            return attention_flash(q, k, v, options)
        case "tiled":
            return attention_tiled(q, k, v, options)
        case _:
            return attention_reference(q, k, v, options)
