"""An n-gram model with interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998, TR-10-98, section 3).

    p_k(w | h) = max(c(hw) − D(c(hw)), 0) / c(h) + γ(h) · p_(k−1)(w | h'),      p_0 = 1 / V

h' is h without its first word. The highest order counts occurrences; the lower ones count how many different words
stand before hw. γ(h) is what the discounts took away, so that the probabilities of all words sum to 1. A context that
was never seen leaves the word to the next lower order.

An n-gram is one integer: its words as the digits of a number to the base V.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SPARSE_DISCOUNTS = (0.5, 1.0, 1.5)
"""Where an order has no n-grams of one of the counts 1 to 4, as among few letters: those of KenLM (Heafield 2011)."""


class KneserNey:
    """The probabilities of a word after up to `order − 1` others."""

    def __init__(self, words: Ints, vocab_size: int, order: int = 5) -> None:
        """Count the n-grams of a text.

        Args:
            words: (N,) ids from 0 to `vocab_size` − 1.
            vocab_size: number of words, V; V to the power of `order` must be below 2⁶³.
            order: longest n-gram.
        """
        assert len(words) >= order
        assert vocab_size**order < 2**63
        self.vocab_size, self.order = vocab_size, order
        grams, counts = np.unique(_grams(words, order, vocab_size), return_counts=True)
        tables = [_Table.of(grams, counts, vocab_size)]
        for length in range(order - 1, 0, -1):
            grams, counts = np.unique(grams % vocab_size**length, return_counts=True)  # different words before each
            tables.append(_Table.of(grams, counts, vocab_size))
        self.tables = tables[::-1]

    def log_probs(self, words: Ints) -> Floats:
        """Natural log-probability of each word of a text after those before it, (N,)."""
        found = np.full(len(words), 1 / self.vocab_size)
        for length, table in enumerate(self.tables, start=1):
            grams = _grams(words, length, self.vocab_size)
            found[length - 1 :] = table.interpolate(grams, self.vocab_size, found[length - 1 :])
        logs: Floats = np.log(found)
        return logs

    def distribution(self, context: Ints) -> Floats:
        """Probability of every word after a context of `order − 1` words, (V,)."""
        texts = np.array([[*context, word] for word in range(self.vocab_size)])  # (V, order)
        return np.array([math.exp(self.log_probs(text)[-1]) for text in texts])


@dataclass(frozen=True)
class _Table:
    """The n-grams of one order."""

    grams: Ints
    """Sorted."""
    shares: Floats
    """Of each: discounted count over the count of its context."""
    contexts: Ints
    """Sorted."""
    rests: Floats
    """γ of each context."""

    @classmethod
    def of(cls, grams: Ints, counts: Ints, vocab_size: int) -> "_Table":
        discounts = _discounts(counts)[np.minimum(counts, 3)]
        contexts, place = np.unique(grams // vocab_size, return_inverse=True)
        totals = np.bincount(place, weights=counts)
        taken = np.bincount(place, weights=discounts)
        return cls(grams, (counts - discounts) / totals[place], contexts, taken / totals)

    def interpolate(self, grams: Ints, vocab_size: int, lower: Floats) -> Floats:
        """p_k of n-grams whose p_(k−1) is `lower`."""
        share = _look_up(self.grams, self.shares, grams, missing=0.0)
        return share + _look_up(self.contexts, self.rests, grams // vocab_size, missing=1.0) * lower


def _discounts(counts: Ints) -> Floats:
    """D of the counts 0, 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (int((counts == count).sum()) for count in (1, 2, 3, 4))
    if not all((n1, n2, n3, n4)):
        return np.array([0.0, *SPARSE_DISCOUNTS])
    y = n1 / (n1 + 2 * n2)
    return np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])


def _grams(words: Ints, length: int, vocab_size: int) -> Ints:
    """All n-grams of a length, in order, (N − length + 1,)."""
    powers = vocab_size ** np.arange(length - 1, -1, -1, dtype=np.int64)
    return np.lib.stride_tricks.sliding_window_view(words.astype(np.int64), length) @ powers


def _look_up(keys: Ints, values: Floats, wanted: Ints, missing: float) -> Floats:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], missing)
