"""The parts of a LLaMA block (LLaMA, arXiv 2302.13971, section 2.2): attention with rotary positions, and SwiGLU.

B batch, T tokens, S key tokens, H heads, K KV heads, D head dim, C model dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arriero.kernels.attention import attention
from arriero.kernels.documents import Documents
from arriero.kernels.linear import Linear
from arriero.model.config import LlamaConfig
from arriero.model.kv_cache import KVCache
from arriero.model.rope import Rotation, rotate


class RMSNorm(nn.Module):
    """x / √(mean x² + ε) · weight (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (…, C); PyTorch's kernel takes the mean in fp32 for half-precision inputs."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


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

    def forward(self, x: Tensor, turn: Rotation, cache: KVCache | None, documents: Documents | None) -> Tensor:
        """Attend among the tokens of `x` (B, T, C), and to those in the cache."""
        heads = (*x.shape[:2], -1, self.head_dim)
        q = rotate(self.wq(x).view(heads), turn)  # (B, T, H, D)
        k = rotate(self.wk(x).view(heads), turn)  # (B, T, K, D)
        v = self.wv(x).view(heads)  # (B, T, K, D)
        key_lengths = None
        if cache is not None:
            k, v, key_lengths = cache.update(self.layer, k, v)  # (B, S, K, D)
        out = attention(q, k, v, documents=documents, key_lengths=key_lengths)  # (B, T, H, D)
        projected: Tensor = self.wo(out.flatten(2))  # (B, T, C)
        return projected


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202): W2 (silu(W1 x) ∘ W3 x)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.w1 = Linear(config.dim, config.hidden_dim, bias=False)
        self.w2 = Linear(config.hidden_dim, config.dim, bias=False)
        self.w3 = Linear(config.dim, config.hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each token of `x` (B, T, C)."""
        projected: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))  # (B, T, C)
        return projected


class Block(nn.Module):
    """Pre-normalised: h = x + Attention(norm x), out = h + FeedForward(norm h)."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, turn: Rotation, cache: KVCache | None, documents: Documents | None) -> Tensor:
        """One block over `x` (B, T, C)."""
        h: Tensor = x + self.attention(self.attention_norm(x), turn, cache, documents)  # (B, T, C)
        out: Tensor = h + self.feed_forward(self.ffn_norm(h))  # (B, T, C)
        return out
