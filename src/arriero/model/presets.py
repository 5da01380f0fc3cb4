"""The sizes of LLaMA (arXiv 2302.13971, table 2) and of Llama 2 (arXiv 2307.09288, table 1), and two for a laptop."""

from typing import Any

from arriero.model.config import LlamaConfig

# The paper speaks of 32.5B parameters: the release calls that size 30B, most later work 33B.
_LLAMA: dict[str, Any] = {"vocab_size": 32000, "norm_eps": 1e-6, "max_seq_len": 2048}
_LLAMA2: dict[str, Any] = {"vocab_size": 32000, "norm_eps": 1e-5, "max_seq_len": 4096}

PRESETS: dict[str, LlamaConfig] = {
    "llama-7b": LlamaConfig.of(dim=4096, n_layers=32, n_heads=32, **_LLAMA),
    "llama-13b": LlamaConfig.of(dim=5120, n_layers=40, n_heads=40, **_LLAMA),
    "llama-33b": LlamaConfig.of(dim=6656, n_layers=60, n_heads=52, **_LLAMA),
    "llama-65b": LlamaConfig.of(dim=8192, n_layers=80, n_heads=64, **_LLAMA),
    "llama2-7b": LlamaConfig.of(dim=4096, n_layers=32, n_heads=32, **_LLAMA2),
    "llama2-13b": LlamaConfig.of(dim=5120, n_layers=40, n_heads=40, **_LLAMA2),
    "llama2-34b": LlamaConfig.of(dim=8192, n_layers=48, n_heads=64, n_kv_heads=8, hidden_dim=22016, **_LLAMA2),
    "llama2-70b": LlamaConfig.of(dim=8192, n_layers=80, n_heads=64, n_kv_heads=8, hidden_dim=28672, **_LLAMA2),
    "smollm2-135m": LlamaConfig.of(
        vocab_size=49152,
        dim=576,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        hidden_dim=1536,
        rope_theta=100000.0,
        max_seq_len=8192,
        tied_embeddings=True,
    ),
    # Small enough to be pretrained on a CPU, with a vocabulary of its own.
    "tiny-6m": LlamaConfig.of(vocab_size=4096, dim=256, n_layers=6, n_heads=4, tied_embeddings=True, max_seq_len=1024),
    "tiny-15m": LlamaConfig.of(vocab_size=8192, dim=384, n_layers=7, n_heads=6, tied_embeddings=True, max_seq_len=1024),
}
