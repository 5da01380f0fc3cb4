"""The shape of a LLaMA: what LLaMA (arXiv 2302.13971, section 2.2) and Llama 2 (arXiv 2307.09288, section 2.2) vary."""

from dataclasses import dataclass
from typing import Any, Literal

from arriero.common.errors import ArrieroError


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than the model was trained on; see `rope.py`."""

    kind: Literal["linear", "dynamic", "llama3"]
    """The formula."""
    factor: float
    """Ratio of the longer context to the original one."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above original_max_seq_len / low_freq_factor are divided by `factor`."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below original_max_seq_len / high_freq_factor are kept."""
    original_max_seq_len: int
    """Context the model was first trained on, in tokens (dynamic and llama3)."""

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "dynamic", "llama3"):
            raise ArrieroError(f"rope_scaling.kind: expected linear, dynamic or llama3, got '{self.kind}'")
        if not self.factor >= 1:
            raise ArrieroError(f"rope_scaling.factor: expected at least 1, got {self.factor}")
        if self.original_max_seq_len < 1:
            raise ArrieroError(
                f"rope_scaling.original_max_seq_len: expected at least 1, got {self.original_max_seq_len}"
            )
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            got = f"{self.low_freq_factor} and {self.high_freq_factor}"
            raise ArrieroError(f"rope_scaling: expected 0 < low_freq_factor < high_freq_factor, got {got}")


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The shape of one LLaMA. `LlamaConfig.of` fills in what the papers derive."""

    vocab_size: int
    """Rows of the embedding."""
    dim: int
    """Width of the residual stream."""
    n_layers: int
    """Transformer blocks."""
    n_heads: int
    """Query heads."""
    n_kv_heads: int
    """Key and value heads: `n_heads` in LLaMA, fewer with grouped queries (Llama 2 34B, 70B), 1 with multi-query."""
    head_dim: int
    """Width of a head, even; usually dim / n_heads."""
    hidden_dim: int
    """Inner width of the feed-forward network."""
    norm_eps: float = 1e-5
    """ε of RMSNorm: 1e-6 in LLaMA, 1e-5 in Llama 2."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Stretching of the rotary frequencies."""
    max_seq_len: int = 2048
    """Context, in tokens."""
    tied_embeddings: bool = False
    """The output layer is the embedding, transposed."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "max_seq_len"):
            if getattr(self, name) < 1:
                raise ArrieroError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.n_heads % self.n_kv_heads:
            raise ArrieroError(f"n_heads: expected a multiple of n_kv_heads = {self.n_kv_heads}, got {self.n_heads}")
        if self.head_dim % 2:
            raise ArrieroError(f"head_dim: expected an even number, for rotary pairs, got {self.head_dim}")
        if self.head_dim == 2 and self.rope_scaling is not None and self.rope_scaling.kind == "dynamic":
            raise ArrieroError("head_dim: expected more than 2 with dynamic rope_scaling, got 2")

    @classmethod
    def of(
        cls,
        *,
        dim: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        hidden_dim: int | None = None,
        **rest: Any,
    ) -> "LlamaConfig":
        """A config with the papers' defaults: no grouped queries, heads that share `dim`, SwiGLU of 2/3 · 4 `dim`."""
        return cls(
            dim=dim,
            n_heads=n_heads,
            n_kv_heads=n_heads if n_kv_heads is None else n_kv_heads,
            head_dim=dim // max(n_heads, 1) if head_dim is None else head_dim,
            hidden_dim=swiglu_width(dim) if hidden_dim is None else hidden_dim,
            **rest,
        )


def swiglu_width(dim: int, *, multiple_of: int = 256, multiplier: float = 1.0) -> int:
    """Inner width of the feed-forward network: 2/3 · 4 `dim` (× Llama 2's multiplier), rounded up to `multiple_of`."""
    width = int(multiplier * int(2 * 4 * dim / 3))
    return multiple_of * -(-width // multiple_of)
