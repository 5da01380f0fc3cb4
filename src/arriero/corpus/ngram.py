"""An n-gram language model with backoff, as ARPA files hold one, that scores whole texts at once.

An n-gram is known by the number of its first n - 1 words among the (n - 1)-grams, and its last word: a 64-bit key. So
looking up is a binary search, all words of a text together. The arrays may lie in files that are mapped into memory:
then several processes share them, and what is never looked up takes none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
IMPOSSIBLE = -99.0
"""log10 of a probability of 0, as ARPA files have it."""


@dataclass(frozen=True)
class Order:
    """The M n-grams of one n, sorted by key."""

    keys: Ints
    """(M,) number of the first n - 1 words among the shorter n-grams, times the model's width, plus the last word."""
    log_prob: NDArray[np.float32]
    """(M,) log10 p(last word | those before)."""
    backoff: NDArray[np.float32]
    """(M,) log10 b of the n-gram as a context; 0 where none was seen."""


@dataclass(frozen=True)
class NGramModel:
    """A model over the words 0 … V - 1; two more stand for the sentence's borders."""

    vocab_size: int
    """V."""
    orders: tuple[Order, ...]
    """Unigrams first; their keys are the words."""
    unknown: float
    """log10 p of a word that was never seen."""

    @property
    def bos(self) -> int:
        """<s>."""
        return self.vocab_size

    @property
    def eos(self) -> int:
        """</s>."""
        return self.vocab_size + 1

    @property
    def width(self) -> int:
        """What keys count words by."""
        return self.vocab_size + 2

    def score(self, sentences: Sequence[Sequence[int]]) -> Floats:
        """log10 probability of each sentence, its end included."""
        words, starts = join_sentences(sentences, self.bos, self.eos)
        if not len(words):
            return np.zeros(0)
        begins = np.flatnonzero(starts == np.arange(len(words)))
        return np.asarray(np.add.reduceat(self.score_words(words, starts), begins), np.float64)

    def score_words(self, words: Ints, starts: Ints) -> Floats:
        """log10 p of each word after those before it in its sentence, 0 for <s>; (N,) out of `join_sentences`."""
        place = np.arange(len(words))
        found = [look_up(self.orders[0].keys, words)]  # by order: the n-gram that ends at each word, or -1
        for n, order in enumerate(self.orders[1:], 2):
            context = np.append(-1, found[-1][:-1])
            fits = (place - starts >= n - 1) & (context >= 0)
            found.append(np.where(fits, look_up(order.keys, np.maximum(context, 0) * self.width + words), -1))
        each = _take(self.orders[0].log_prob, found[0], np.full(len(words), self.unknown))
        for n in range(1, len(self.orders)):
            context = np.append(-1, found[n - 1][:-1])
            context[starts == place] = -1
            shorter = each + _take(self.orders[n - 1].backoff, context, np.zeros(len(words)))
            each = _take(self.orders[n].log_prob, found[n], shorter)
        each[starts == place] = 0.0
        return each


def join_sentences(sentences: Iterable[Sequence[int]], bos: int, eos: int) -> tuple[Ints, Ints]:
    """All words in a row, <s> and </s> around each sentence, and for each word where its sentence begins."""
    parts = [np.array([bos, *sentence, eos], np.int64) for sentence in sentences]
    lengths = np.array([len(part) for part in parts], np.int64)
    words = np.concatenate([np.zeros(0, np.int64), *parts])
    return words, np.repeat(np.cumsum(lengths) - lengths, lengths)


def look_up(keys: Ints, wanted: Ints) -> Ints:
    """Where each wanted key stands among the sorted ones, or -1."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def _take(values: NDArray[np.float32], ids: Ints, otherwise: Floats) -> Floats:
    """The values by id, and where the id is -1 the others."""
    if not len(values):
        return otherwise
    return np.where(ids >= 0, values[np.maximum(ids, 0)].astype(np.float64), otherwise)
