"""An n-gram language model with modified Kneser-Ney smoothing (Chen & Goodman 1998; Heafield et al. 2013), in numpy.

    p(w | h) = u(w | h) + b(h) · p(w | h'),    u(w | h) = (a(hw) − D(a(hw))) / Σₓ a(hx)

h' is h without its first word, and a(·) counts: occurrences in the highest order and of what begins with <s>, else the
different words that stand before. D is D₁, D₂ or D₃ for counts of 1, 2, and 3 or more, estimated from the counts of
counts of each order. Under the lowest order lies 1/V, of which words never seen, together <unk>, have one share.

An n-gram is known by the number of its first n - 1 words among the (n - 1)-grams, and its last word: a 64-bit key. So
counting is sorting, and looking up is a binary search, both over whole texts at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts of an order whose counts of counts give none, as KenLM's."""
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Order:
    """The n-grams of one n, sorted by key."""

    keys: Ints
    """Number of the first n - 1 words among the shorter n-grams, times the vocabulary's size, plus the last word."""
    log_prob: Floats
    """log10 p(last word | those before)."""
    backoff: Floats
    """log10 b of the n-gram as a context; 0 where none was seen."""


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
        each = self._log_probs(words, starts)
        if not len(sentences):
            return np.zeros(0)
        begins = np.flatnonzero(starts == np.arange(len(words)))
        return np.asarray(np.add.reduceat(each, begins), np.float64)

    def _log_probs(self, words: Ints, starts: Ints) -> Floats:
        """log10 p of each word, and 0 for <s>."""
        place = np.arange(len(words))
        found = [_look_up(self.orders[0].keys, words)]  # by order: the n-gram that ends at each word, or -1
        for n, order in enumerate(self.orders[1:], 2):
            context = np.append(-1, found[-1][:-1])
            fits = (place - starts >= n - 1) & (context >= 0)
            found.append(np.where(fits, _look_up(order.keys, np.maximum(context, 0) * self.width + words), -1))
        each = _take(self.orders[0].log_prob, found[0], np.full(len(words), self.unknown))
        for n in range(1, len(self.orders)):
            context = np.append(-1, found[n - 1][:-1])
            context[starts == place] = -1
            shorter = each + _take(self.orders[n - 1].backoff, context, np.zeros(len(words)))
            each = _take(self.orders[n].log_prob, found[n], shorter)
        each[starts == place] = 0.0
        return np.asarray(each, np.float64)


def join_sentences(sentences: Iterable[Sequence[int]], bos: int, eos: int) -> tuple[Ints, Ints]:
    """All words in a row, <s> and </s> around each sentence, and for each word where its sentence begins."""
    parts = [np.array([bos, *sentence, eos], np.int64) for sentence in sentences]
    lengths = np.array([len(part) for part in parts], np.int64)
    words = np.concatenate([np.zeros(0, np.int64), *parts])
    return words, np.repeat(np.cumsum(lengths) - lengths, lengths)


def _take(values: Floats, ids: Ints, otherwise: Floats) -> Floats:
    """The values by id, and where the id is -1 the others."""
    return np.where(ids >= 0, values[np.maximum(ids, 0)], otherwise) if len(values) else otherwise


def _look_up(keys: Ints, wanted: Ints) -> Ints:
    """Where each wanted key stands among the sorted ones, or -1."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


@dataclass
class _Counted:
    """The different n-grams of one n."""

    keys: Ints
    count: Ints
    """Occurrences."""
    prefix: Ints
    """Number of the first n - 1 words among the shorter ones; 0 for all unigrams."""
    suffix: Ints
    """Number of the last n - 1 words."""
    begins: NDArray[np.bool_]
    """Whether it begins with <s>."""


def train(
    sentences: Iterable[Sequence[int]], vocab_size: int, order: int = 5, discount: float | None = None
) -> NGramModel:
    """Estimate a model. Memory: about 60 bytes for each word of the text and order.

    Args:
        sentences: words by number.
        vocab_size: words are smaller.
        order: n of the longest n-grams.
        discount: the same for all counts, instead of those that the text gives (plain Kneser-Ney).

    Raises:
        ArrieroError: there is no sentence, or the order is no positive number.
    """
    if order < 1:
        raise ArrieroError(f"order: expected 1 or more, got {order}")
    bos, eos, width = vocab_size, vocab_size + 1, vocab_size + 2
    words, starts = join_sentences(sentences, bos, eos)
    if not len(words):
        raise ArrieroError("expected at least one sentence to train on, got none")
    counted = _count(words, starts, order, width, bos)
    orders: list[Order] = []
    shorter = np.zeros(0)
    unknown = 0.0
    for n, grams in enumerate(counted, 1):
        adjusted = grams.count
        if n < order:
            before = np.bincount(counted[n].suffix, minlength=len(grams.keys))
            adjusted = np.where(grams.begins, grams.count, before)
        if n == 1:
            adjusted = np.where(grams.keys == bos, 0, adjusted)  # <s> is never predicted
        discounts = np.array([0.0, *(_discounts(adjusted) if discount is None else (discount,) * 3)])
        taken = discounts[np.minimum(adjusted, 3)]
        contexts = 1 if n == 1 else len(counted[n - 2].keys)
        total = np.bincount(grams.prefix, weights=adjusted, minlength=contexts)
        total = np.maximum(total, 1)
        mass = np.bincount(grams.prefix, weights=taken, minlength=contexts) / total
        own = (adjusted - taken) / total[grams.prefix]
        if n == 1:
            seen = len(grams.keys) - 1 + 1  # without <s>, with <unk>
            unknown = float(mass[0] / seen)
            probability = own + unknown
        else:
            probability = own + mass[grams.prefix] * shorter[grams.suffix]
            orders[-1] = Order(orders[-1].keys, orders[-1].log_prob, _log(np.where(mass > 0, mass, 1.0)))
        shorter = probability
        if n == 1:
            shorter = np.where(grams.keys == bos, 0.0, probability)
        orders.append(Order(grams.keys, _log(shorter), np.zeros(len(grams.keys))))
    return NGramModel(vocab_size, tuple(orders), float(_log(np.array([unknown]))[0]))


def _log(probability: Floats) -> Floats:
    """log10; -99 for 0, as ARPA files have it."""
    with np.errstate(divide="ignore"):
        return np.where(probability > 0, np.log10(probability), -99.0)


def _count(words: Ints, starts: Ints, order: int, width: int, bos: int) -> list[_Counted]:
    """The different n-grams of each n up to `order`."""
    place = np.arange(len(words))
    keys, first, ids, count = np.unique(words, return_index=True, return_inverse=True, return_counts=True)
    zeros = np.zeros(len(keys), np.int64)
    counted = [_Counted(keys, count, zeros, zeros, keys == bos)]
    for n in range(2, order + 1):
        ends = np.flatnonzero(place - starts >= n - 1)
        gram_keys = ids[ends - 1] * width + words[ends]
        keys, first, inverse, count = np.unique(gram_keys, return_index=True, return_inverse=True, return_counts=True)
        at = ends[first]
        counted.append(_Counted(keys, count, ids[at - 1], ids[at], words[at - n + 1] == bos))
        ids = np.full(len(words), -1, np.int64)
        ids[ends] = inverse
    return counted


def _discounts(adjusted: Ints) -> tuple[float, ...]:
    """D₁, D₂, D₃ of an order: Dᵢ = i − (i + 1) Y tᵢ₊₁/tᵢ with Y = t₁/(t₁ + 2t₂), tᵢ the n-grams that count i."""
    t = np.bincount(np.minimum(adjusted, 5), minlength=6).astype(float)
    if not t[1:5].all():
        return FALLBACK
    y = t[1] / (t[1] + 2 * t[2])
    found = tuple(i - (i + 1) * y * t[i + 1] / t[i] for i in (1, 2, 3))
    return found if all(0 <= value <= i for i, value in enumerate(found, 1)) else FALLBACK
