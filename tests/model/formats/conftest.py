"""GGUF files made on the spot, and a tokenizer small enough for tiny models."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from arriero.model.config import LlamaConfig
from arriero.model.formats.gguf import gguf_names, reordered_heads
from arriero.model.formats.gguf_config import config_metadata
from arriero.tokenizer.gguf import from_gguf
from arriero.tokenizer.pieces import byte_alphabet
from arriero.tokenizer.tokenizer import Tokenizer

GGUF_TINY = {
    "vocab_size": 300,
    "dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "hidden_dim": 96,
    "max_seq_len": 64,
}
BYTES = sorted(byte_alphabet())
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ t", "i n"]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture
def gguf_tiny() -> LlamaConfig:
    """A config whose rows divide into blocks of 32."""
    return LlamaConfig.of(**GGUF_TINY)


@pytest.fixture
def tiny_tokenizer() -> Tokenizer:
    """All bytes, six merges and ChatML's control tokens: 265 tokens."""
    tokens = [*CONTROL, *BYTES, *(merge.replace(" ", "") for merge in MERGES)]
    prefix = "tokenizer.ggml."
    return from_gguf(
        {
            f"{prefix}model": "gpt2",
            f"{prefix}pre": "smollm",
            f"{prefix}tokens": tokens,
            f"{prefix}token_type": [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)),
            f"{prefix}merges": MERGES,
            f"{prefix}bos_token_id": 1,
            f"{prefix}eos_token_id": 2,
            f"{prefix}unknown_token_id": 0,
            f"{prefix}add_bos_token": True,
            "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
        }
    )


class GgufFile:
    """A GGUF file to be written with the package's own writer, for a config, with room for mischief before `write`."""

    def __init__(self, config: LlamaConfig, seed: int = 0) -> None:
        self.config = config
        self.architecture = "llama"
        self.metadata: dict[str, Any] = config_metadata(config)
        self.tensors: dict[str, np.ndarray] = {}
        self.kinds: dict[str, gguf.GGMLQuantizationType] = {}
        random = np.random.default_rng(seed)
        for name in gguf_names(config).values():
            numbers = random.standard_normal(self.shape(name)) * 0.2 + name.endswith("norm.weight")
            self.tensors[name] = numbers.astype(np.float32)

    def shape(self, name: str) -> tuple[int, ...]:
        c = self.config
        part = name.removesuffix(".weight").rpartition(".")[2]
        q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        return {
            "token_embd": (c.vocab_size, c.dim),
            "output": (c.vocab_size, c.dim),
            "attn_q": (q, c.dim),
            "attn_k": (kv, c.dim),
            "attn_v": (kv, c.dim),
            "attn_output": (c.dim, q),
            "ffn_gate": (c.hidden_dim, c.dim),
            "ffn_up": (c.hidden_dim, c.dim),
            "ffn_down": (c.dim, c.hidden_dim),
        }.get(part, (c.dim,))

    def write(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self.metadata.items():
            kind = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}[type(value)]
            getattr(writer, f"add_{kind}")(key, value)
        for name, tensor in self.tensors.items():
            writer.add_tensor(name, tensor, raw_dtype=self.kinds.get(name))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def values(self) -> dict[str, np.ndarray]:
        """What the file's tensors mean, by the package's dequantiser, in the order of rows that torch models use."""
        found = {}
        for name, tensor in self.tensors.items():
            numbers = gguf.quants.dequantize(tensor, self.kinds[name]) if name in self.kinds else tensor
            if heads := reordered_heads(name, self.config):
                rows, columns = numbers.shape
                numbers = numbers.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
            found[name] = numbers.astype(np.float32)
        return found


@pytest.fixture
def make_gguf():
    """Build a `GgufFile`."""
    return GgufFile
