"""A small encoder without weights, and collections over it."""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from arriero.rag.chunk import ChunkConfig
from arriero.rag.collection import Collection
from arriero.tokenizer.chat import CHATML
from arriero.tokenizer.tokenizer import Tokenizer


class WordEncoder:
    """A text's vector is the sum of its words' random directions, so texts with common words are near each other."""

    dim = 32

    def __init__(self, name: str = "words", seed: str = "") -> None:
        self.name = name
        self.seed = seed
        self.fingerprint = hashlib.sha256(f"{name}{seed}".encode()).hexdigest()
        self.encoded: list[str] = []

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._encode(text) for text in texts])

    def encode_passages(self, texts: Sequence[str], advance: Callable[[int], None] | None = None) -> np.ndarray:
        self.encoded += texts
        vectors = []
        for text in texts:
            vectors.append(self._encode(text))
            if advance is not None:
                advance(1)
        return np.stack(vectors)

    def _encode(self, text: str) -> np.ndarray:
        total = np.zeros(self.dim)
        for word in re.findall(r"\w+", text.lower()):
            seed = int.from_bytes(hashlib.sha256((self.seed + word).encode("utf-8", "replace")).digest()[:8], "little")
            total += np.random.default_rng(seed).standard_normal(self.dim)
        return (total / max(np.linalg.norm(total), 1e-9)).astype(np.float32)


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def other_encoder() -> WordEncoder:
    return WordEncoder("other words", "x")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder of small documents about different things."""
    folder = tmp_path / "docs"
    write(folder / "llamas.txt", "Llamas carry wool and loads over the mountains of Peru. " * 3)
    write(folder / "bread.txt", "Bread is baked from flour and water in a hot oven. " * 3)
    write(folder / "sub" / "stars.md", "Stars shine because hydrogen fuses into helium. " * 3)
    return folder


@pytest.fixture
def collection(tmp_path: Path, encoder: WordEncoder):
    with Collection.open(tmp_path / "collection", encoder, chunk=ChunkConfig(words=20)) as opened:
        yield opened


@pytest.fixture
def write_file() -> Callable[[Path, str], Path]:
    return write


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """A token a byte, and ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    control = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    backend.add_special_tokens([AddedToken(word, special=True) for word in control])
    return Tokenizer(backend, eos_id=256, chat_template=CHATML)
