"""Modified Kneser-Ney smoothing (Chen & Goodman 1998, section 3; Heafield et al. 2013), in numpy and on disk.

    p(w | h) = u(w | h) + b(h) · p(w | h'),    u(w | h) = (a(hw) − D(a(hw))) / Σₓ a(hx)

h' is h without its first word, and a(·) counts: occurrences in the highest order and of what begins with <s>, else the
different words that stand before. D is D₁, D₂ or D₃ for counts of 1, 2, and 3 or more, estimated from the counts of
counts of each order; b(h) is the share that they took. Under the lowest order lies 1/V: V is how many words were seen,
</s> among them, and one more, <unk>, that stands for all others. As KenLM estimates, nothing is pruned.

Counting is sorting keys (see `ngram`), one range of their values after the other; adding up goes block by block.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError
from arriero.corpus.column import Column, blocks, filled
from arriero.corpus.ngram import IMPOSSIBLE, Floats, Ints, NGramModel, Order

BLOCK = 1 << 22
"""Words or n-grams that are looked at together: each takes up to 100 bytes of memory meanwhile."""
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts of an order whose counts of counts give none, as KenLM's."""


def train(
    sentences: Iterable[Sequence[int]],
    vocab_size: int,
    order: int = 5,
    discounts: Sequence[float] | None = None,
    block: int | None = None,
) -> NGramModel:
    """Estimate a model.

    Memory: 100 bytes for each of a block's words, and what the system has to spare: all else is in temporary files, of
    about 200 bytes for each word of the text.

    Args:
        sentences: words by number.
        vocab_size: words are smaller.
        order: n of the longest n-grams.
        discounts: of each n, for all counts, instead of those that the text gives (plain Kneser-Ney).
        block: `BLOCK` by default; the model does not depend on it.

    Raises:
        ArrieroError: there is no sentence, or the order is no positive number.
        OSError: the disk is full.
    """
    if order < 1:
        raise ArrieroError(f"order: expected 1 or more, got {order}")
    block = block or BLOCK
    words = _words(sentences, vocab_size, vocab_size + 1)
    if not len(words):
        raise ArrieroError("expected at least one sentence to train on, got none")
    grams = _count(words, order, vocab_size, block)
    made: list[_Estimate] = []
    for n in range(order):
        longer = grams[n + 1] if n + 1 < order else None
        counts = _adjust(grams[n], longer, block)
        if n == 0:
            counts[grams[0].keys == vocab_size] = 0  # <s> is never predicted
        discount = _discounts(counts, block) if discounts is None else (discounts[n],) * 3
        shorter = made[-1] if made else None
        made.append(_estimate(grams[n], counts, discount, shorter, vocab_size + 2, block))
    backoffs = [*(estimate.mass for estimate in made[1:]), filled(len(grams[-1].keys), 1, np.float64, block)]
    orders = [
        Order(gram.keys, _log(estimate.probability, block), _log(backoff, block))
        for gram, estimate, backoff in zip(grams, made, backoffs, strict=True)
    ]
    return NGramModel(vocab_size, tuple(orders), float(_log(np.array([made[0].unknown]), 1)[0]))


def _words(sentences: Iterable[Sequence[int]], bos: int, eos: int) -> Ints:
    """All words in a row, <s> and </s> around each sentence."""
    column = Column(np.int64)
    for sentence in sentences:
        column.append([bos, *sentence, eos])
    return column.finish()


@dataclass(frozen=True)
class _Grams:
    """The different n-grams of one n, sorted by key."""

    keys: Ints
    counts: Ints
    """Occurrences."""
    suffixes: Ints
    """Number of the last n - 1 words among the shorter n-grams; 0 for all unigrams."""
    begins: NDArray[np.bool_]
    """Whether <s> is the first word."""


def _count(words: Ints, order: int, bos: int, block: int) -> list[_Grams]:
    """The different n-grams of each n up to `order`."""
    width = bos + 2
    before: Ints | None = None  # the number of the (n - 1)-gram that ends at each word, or -1
    found = []
    for n in range(1, order + 1):
        keys = _keys(words, before, width, bos, block)
        columns = [Column(dtype) for dtype in (np.int64, np.int64, np.int64, np.bool_)]
        ids = filled(len(words), -1, np.int64, block)
        known = 0
        for places in _ranges(keys, block):
            distinct, first, inverse, counts = np.unique(
                keys[places], return_index=True, return_inverse=True, return_counts=True
            )
            ends = places[first]
            suffixes = np.zeros(len(ends), np.int64) if before is None else before[ends]
            begins = words[ends - n + 1] == bos
            for column, values in zip(columns, (distinct, counts, suffixes, begins), strict=True):
                column.append(values)
            ids[places] = inverse + known
            known += len(distinct)
        found.append(_Grams(*(column.finish() for column in columns)))
        before = ids
    return found


def _keys(words: Ints, before: Ints | None, width: int, bos: int, block: int) -> Ints:
    """The key of the n-gram that ends at each word; -1 where the sentence is younger."""
    column = Column(np.int64)
    for part in blocks(len(words), block):
        last = words[part]
        if before is None:
            column.append(last)
            continue
        context = before[max(0, part.start - 1) : part.stop - 1]
        context = context if part.start else np.append(-1, context)
        column.append(np.where((context >= 0) & (last != bos), context * width + last, -1))
    return column.finish()


def _ranges(keys: Ints, block: int) -> Iterable[Ints]:
    """Places of the keys that are not -1, about a block at a time, in ranges of keys that ascend."""
    passes = -(-len(keys) // block)
    sample = np.sort(keys[:: max(1, len(keys) // (1000 * passes))])
    inner = sample[np.arange(1, passes) * len(sample) // passes]
    edges = np.unique(np.concatenate([[0], np.maximum(inner, 0), [np.iinfo(np.int64).max]]))
    for low, high in pairwise(edges):
        parts = []
        for part in blocks(len(keys), block):
            here = keys[part]
            parts.append(np.flatnonzero((here >= low) & (here < high)) + part.start)
        yield np.concatenate(parts)


def _adjust(grams: _Grams, longer: _Grams | None, block: int) -> Ints:
    """a(·) of each n-gram."""
    if longer is None:
        return grams.counts.copy()
    adjusted: Ints = filled(len(grams.keys), 0, np.int64, block)
    for part in blocks(len(longer.keys), block):
        suffixes, different = np.unique(longer.suffixes[part], return_counts=True)
        adjusted[suffixes] += different
    for part in blocks(len(grams.keys), block):
        adjusted[part] = np.where(grams.begins[part], grams.counts[part], adjusted[part])
    return adjusted


def _discounts(counts: Ints, block: int = BLOCK) -> tuple[float, ...]:
    """D₁, D₂, D₃ of an order: Dᵢ = i − (i + 1) Y tᵢ₊₁/tᵢ with Y = t₁/(t₁ + 2t₂), tᵢ the n-grams that count i."""
    t = np.zeros(6)
    for part in blocks(len(counts), block):
        t += np.bincount(np.minimum(counts[part], 5), minlength=6)
    if not t[1:5].all():
        return FALLBACK
    y = t[1] / (t[1] + 2 * t[2])
    found = tuple(float(i - (i + 1) * y * t[i + 1] / t[i]) for i in (1, 2, 3))
    return found if all(0 <= value <= i for i, value in enumerate(found, 1)) else FALLBACK


@dataclass(frozen=True)
class _Estimate:
    """What is known of one order."""

    probability: Floats
    """p of each n-gram; 0 for <s>."""
    mass: Floats
    """b of each (n - 1)-gram; 1 of one that nothing follows."""
    unknown: float
    """p of a unigram that was never seen."""


def _estimate(
    grams: _Grams, counts: Ints, discounts: Sequence[float], shorter: _Estimate | None, width: int, block: int
) -> _Estimate:
    """The equation above, for one order."""
    takes = np.array([0.0, *discounts])  # by count
    contexts = 1 if shorter is None else len(shorter.probability)
    totals, mass = (filled(contexts, 0, np.float64, block) for _ in range(2))
    for part in blocks(len(grams.keys), block):
        prefixes = _prefixes(grams.keys[part], shorter, width)
        first, last = int(prefixes[0]), int(prefixes[-1])  # as the keys are sorted, so are these
        for sums, values in ((totals, counts[part]), (mass, takes[np.minimum(counts[part], 3)])):
            sums[first : last + 1] += np.bincount(prefixes - first, weights=values)
    for part in blocks(contexts, block):
        mass[part] = np.where(totals[part] > 0, mass[part] / np.maximum(totals[part], 1), 1.0)
    unknown = float(mass[0] / len(grams.keys)) if shorter is None else 0.0  # <s> is no word, and <unk> is one
    column = Column(np.float64)
    for part in blocks(len(grams.keys), block):
        prefixes = _prefixes(grams.keys[part], shorter, width)
        own = (counts[part] - takes[np.minimum(counts[part], 3)]) / np.maximum(totals[prefixes], 1)
        if shorter is None:
            column.append(np.where(grams.begins[part], 0.0, own + unknown))
        else:
            column.append(own + mass[prefixes] * shorter.probability[grams.suffixes[part]])
    return _Estimate(column.finish(), mass, unknown)


def _prefixes(keys: Ints, shorter: _Estimate | None, width: int) -> Ints:
    """Number of the first n - 1 words; 0 for unigrams."""
    return np.zeros(len(keys), np.int64) if shorter is None else keys // width


def _log(probability: Floats, block: int) -> NDArray[np.float32]:
    """log10."""
    column = Column(np.float32)
    for part in blocks(len(probability), block):
        values = probability[part]
        column.append(np.where(values > 0, np.log10(np.maximum(values, 1e-300)), IMPOSSIBLE))
    return column.finish()
