"""How well a tokenizer fits a text: bytes per token, fertility, the share of the vocabulary that is used.

Fertility is tokens per word (Rust et al. 2021, arXiv 2012.15613). A word is what stands between white space, and in
scripts without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) a single character.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from arriero.common.errors import ArrieroError
from arriero.tokenizer.tokenizer import Tokenizer

_WITHOUT_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_WITHOUT_SPACES}]|[^\s{_WITHOUT_SPACES}]+")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one tokenizer makes of one source."""

    source: str
    tokenizer: str
    bytes: int
    """UTF-8 bytes of the text."""
    words: int
    tokens: int
    """Without those that begin and end a sequence."""
    distinct: int
    """Tokens of the vocabulary that occur."""
    vocab_size: int
    altered: int
    """Parts of the text (a few kilobytes each, or a document) that decode to something else than they were."""

    @property
    def bytes_per_token(self) -> float:
        """Higher is better: fewer tokens for the same text."""
        return self.bytes / self.tokens

    @property
    def fertility(self) -> float:
        """Tokens per word."""
        return self.tokens / max(1, self.words)

    @property
    def vocabulary_used(self) -> float:
        """Share of the vocabulary that occurs."""
        return self.distinct / self.vocab_size

    def facts(self) -> dict[str, str | int | float]:
        """Everything, for JSON."""
        ratios = {"bytes_per_token": self.bytes_per_token, "fertility": self.fertility}
        return vars(self) | ratios | {"vocabulary_used": self.vocabulary_used}


def count_words(text: str) -> int:
    """Words between white space; in scripts without spaces, characters."""
    return len(text.split()) if text.isascii() else sum(1 for _ in _WORD.finditer(text))


def split_words(text: str) -> list[str]:
    """The words that `count_words` counts."""
    return text.split() if text.isascii() else _WORD.findall(text)


def measure(tokenizer: Tokenizer, texts: Iterable[str], *, source: str, name: str) -> Measurement:
    """Encode `texts` and count.

    Args:
        tokenizer: any.
        texts: documents or parts of documents; each is encoded by itself.
        source: what to call the texts.
        name: what to call the tokenizer.

    Raises:
        ArrieroError: there is no text.
    """
    size = words = tokens = altered = 0
    used = np.zeros(tokenizer.vocab_size, bool)
    rest = iter(texts)
    while batch := list(islice(rest, 256)):
        rows = tokenizer.encode_batch(batch, bos=False, eos=False)
        for text, row in zip(batch, rows, strict=True):
            size += len(text.encode())
            words += count_words(text)
            tokens += len(row)
            used[row] = True
            altered += tokenizer.decode(row) != text
    if not tokens:
        raise ArrieroError(f"source '{source}' holds no text")
    return Measurement(
        source=source,
        tokenizer=name,
        bytes=size,
        words=words,
        tokens=tokens,
        distinct=int(used.sum()),
        vocab_size=tokenizer.vocab_size,
        altered=altered,
    )
