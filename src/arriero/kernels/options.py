"""What an attention call may ask for besides q, k and v, and the checks of all its arguments.

B batch, T query tokens, S key tokens, H heads, K KV heads, D head dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.kernels.block_mask import BlockMask
from arriero.kernels.documents import Documents

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Options:
    """One call's options, the same for every implementation; `reference.py` is their definition."""

    causal: bool = True
    """Query t sees keys up to S − T + t: aligned at the bottom right, as a cache needs."""
    scale: float | None = None
    """Factor of the scores; 1/√D when None."""
    window: int | None = None
    """Tokens that a query sees: itself and the window − 1 before it; as many after it too, if not causal."""
    softcap: float | None = None
    """Scores x become softcap · tanh(x / softcap)."""
    dropout: float = 0.0
    """Share of the weights dropped; the others are divided by 1 − dropout."""
    seed: int = 0
    """Which weights a dropout drops."""
    documents: Documents | None = None
    """Documents packed into the rows; a token sees its own document only."""
    key_lengths: Tensor | None = None
    """(B,) row b has the keys k[b, :key_lengths[b]] only, and its T queries end where those end."""
    key_mask: Tensor | None = None
    """(B, S) bool, true where there is a key; unlike with key_lengths, the queries keep their places."""
    block_mask: BlockMask | None = None
    """Blocks of the scores to compute; the others count as masked."""
    deterministic: bool = True
    """Whether the backward pass gives the same bits each time; if not, the kernels may add up dQ in any order, which is
    faster."""

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ArrieroError(f"window: expected 1 token or more, got {self.window}")
        if self.softcap is not None and not self.softcap > 0:
            raise ArrieroError(f"softcap: expected a number above 0, got {self.softcap}")
        if not 0 <= self.dropout < 1:
            raise ArrieroError(f"dropout: expected a share from 0 up to 1, got {self.dropout}")
        if not 0 <= self.seed < 2**63:
            raise ArrieroError(f"seed: expected 0 to 2^63 - 1, got {self.seed}")
        for name in ("key_lengths", "block_mask"):
            if self.documents is not None and getattr(self, name) is not None:
                raise ArrieroError(f"{name}: expected None together with packed documents, got a {name}")

    def scale_of(self, q: Tensor) -> float:
        """The factor of the scores for these queries."""
        return q.shape[-1] ** -0.5 if self.scale is None else self.scale


def check_arguments(q: Tensor, k: Tensor, v: Tensor, options: Options) -> None:
    """Check `q` (B, T, H, D), `k` and `v` (B, S, K, D), and the options' tensors against them.

    What `key_lengths` holds is checked on a CPU only: on a GPU that would wait for it, and what comes of lengths beyond
    0 to S isn't defined.

    Raises:
        ArrieroError: naming the argument, what was expected and what came.
    """
    _check_qkv(q, k, v)
    (batch, queries, heads, _), keys = q.shape, k.shape[1]
    if options.documents is not None:
        if queries != keys:
            raise ArrieroError(f"documents: expected as many keys as queries, got {keys} keys and {queries} queries")
        if options.documents.shape != (batch, queries):
            raise ArrieroError(
                f"documents: expected those of {batch} rows of {queries} tokens, got those of "
                f"{options.documents.shape[0]} rows of {options.documents.shape[1]} tokens"
            )
        _check_device("documents", options.documents.table, q)
    if options.key_lengths is not None:
        _check_shape("key_lengths", options.key_lengths, (batch,))
        _check_device("key_lengths", options.key_lengths, q)
        if options.key_lengths.dtype not in (torch.int64, torch.int32):
            raise ArrieroError(f"key_lengths: expected int64 or int32, got {options.key_lengths.dtype}")
        if q.device.type == "cpu":
            _check_lengths(options.key_lengths, keys)
    if options.key_mask is not None:
        _check_shape("key_mask", options.key_mask, (batch, keys))
        _check_device("key_mask", options.key_mask, q)
        if options.key_mask.dtype != torch.bool:
            raise ArrieroError(f"key_mask: expected bool, true where there is a key, got {options.key_mask.dtype}")
    if options.block_mask is not None:
        options.block_mask.check(heads, queries, keys)
        _check_device("block_mask", options.block_mask.blocks, q)


def _check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.dim() != 4:
        raise ArrieroError(f"q: expected 4 dimensions (batch, tokens, heads, head dim), got shape {tuple(q.shape)}")
    if k.dim() != 4 or k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        raise ArrieroError(
            f"k: expected shape ({q.shape[0]}, tokens, KV heads, {q.shape[3]}) to go with q, got {tuple(k.shape)}"
        )
    _check_shape("v", v, tuple(k.shape), "k's shape")
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ArrieroError(f"q: expected heads in a multiple of the {k.shape[2]} KV heads, got {q.shape[2]} heads")
    if q.dtype not in DTYPES:
        raise ArrieroError(f"q: expected dtype float32, bfloat16, float16 or float64, got {q.dtype}")
    for name, x in (("k", k), ("v", v)):
        _check_device(name, x, q)
        if x.dtype != q.dtype:
            raise ArrieroError(f"{name}: expected q's dtype {q.dtype}, got {x.dtype}")


def _check_lengths(key_lengths: Tensor, keys: int) -> None:
    for length in key_lengths.tolist():
        if not 0 <= length <= keys:
            raise ArrieroError(f"key_lengths: expected 0 to k's {keys} tokens, got {length}")


def _check_shape(name: str, x: Tensor, shape: tuple[int, ...], known_as: str = "shape") -> None:
    if tuple(x.shape) != shape:
        raise ArrieroError(f"{name}: expected {known_as} {shape}, got {tuple(x.shape)}")


def _check_device(name: str, x: Tensor, q: Tensor) -> None:
    if x.device != q.device:
        raise ArrieroError(f"{name}: expected q's device {q.device}, got {x.device}")
