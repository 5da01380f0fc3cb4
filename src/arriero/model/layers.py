"""The parts of a LLaMA block (LLaMA, arXiv 2302.13971, section 2.2): attention with rotary positions, and SwiGLU.

B batch, T tokens, S key tokens, H heads, K KV heads, D head dim, C model dim.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from arriero.kernels.attention import attention
from arriero.kernels.documents import Documents
from arriero.kernels.linear import Linear
from arriero.kernels.recompute import recomputed
from arriero.kernels.rms_norm import rms_norm
from arriero.kernels.swiglu import swiglu
from arriero.model.choices import Recompute
from arriero.model.config import LlamaConfig
from arriero.model.kv_cache import Cache
from arriero.model.rope import Rotation, rotate


class RMSNorm(nn.Module):
    """x / √(mean x² + ε) · weight (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (…, C); the mean is taken in fp32 for half-precision inputs."""
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention; grouped queries when n_kv_heads < n_heads (Llama 2, arXiv 2307.09288, section 2.2)."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.wq = Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = Linear(config.n_heads * config.head_dim, config.dim, bias=False)

    def forward(self, x: Tensor, turn: Rotation, cache: Cache | None, documents: Documents | None) -> Tensor:
        """Attend among the tokens of `x` (B, T, C), and to those in the cache."""
        heads = (*x.shape[:2], -1, self.head_dim)
        q = rotate(self.wq(x).view(heads), turn)  # (B, T, H, D)
        k = rotate(self.wk(x).view(heads), turn)  # (B, T, K, D)
        v = self.wv(x).view(heads)  # (B, T, K, D)
        if cache is None:
            out = attention(q, k, v, documents=documents)  # (B, T, H, D)
        else:
            out = cache.attend(self.layer, q, k, v)  # (B, T, H, D)
        projected: Tensor = self.wo(out.flatten(2))  # (B, T, C)
        return projected


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202): W2 (silu(W1 x) ∘ W3 x)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.w1 = Linear(config.dim, config.hidden_dim, bias=False)
        self.w2 = Linear(config.hidden_dim, config.dim, bias=False)
        self.w3 = Linear(config.dim, config.hidden_dim, bias=False)
        self.keep_product = True

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each token of `x` (B, T, C)."""
        a, b = self.w1(x), self.w3(x)  # (B, T, hidden)
        product = swiglu(a, b)  # (B, T, hidden)
        with _unless(self.keep_product, product, lambda: swiglu(a, b)):
            out: Tensor = self.w2(product)  # (B, T, C)
        return out


class Block(nn.Module):
    """Pre-normalised: h = x + Attention(norm x), out = h + FeedForward(norm h)."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.recompute: Recompute = "none"

    def forward(self, x: Tensor, turn: Rotation, cache: Cache | None, documents: Documents | None) -> Tensor:
        """One block over `x` (B, T, C)."""
        if self.recompute == "full" and torch.is_grad_enabled():
            out: Tensor = checkpoint(self._forward, x, turn, cache, documents, use_reentrant=False)
            return out
        return self._forward(x, turn, cache, documents)

    def _forward(self, x: Tensor, turn: Rotation, cache: Cache | None, documents: Documents | None) -> Tensor:
        keep = self.recompute != "selective"
        self.feed_forward.keep_product = keep
        normed = self.attention_norm(x)  # (B, T, C)
        with _unless(keep, normed, lambda: self.attention_norm(x)):
            h = x + self.attention(normed, turn, cache, documents)  # (B, T, C)
        normed_h = self.ffn_norm(h)  # (B, T, C)
        with _unless(keep, normed_h, lambda: self.ffn_norm(h)):
            out: Tensor = h + self.feed_forward(normed_h)  # (B, T, C)
        return out


def set_recompute(model: nn.Module, recompute: Recompute) -> None:
    """Tell every block of a model what to compute again."""
    for module in model.modules():
        if isinstance(module, Block):
            module.recompute = recompute


def _unless(keep: bool, tensor: Tensor, make: Callable[[], Tensor]) -> AbstractContextManager[None]:
    return nullcontext() if keep else recomputed(tensor, make)
