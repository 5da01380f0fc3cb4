"""Of documents that nearly agree one stays (MinHash: Broder 1997; locality-sensitive hashing: Indyk & Motwani 1998).

A document is the set of its 5-grams of words. `rensa` makes its signature of 128 values; signatures that agree in one
of b bands of r values are candidates, and are taken for duplicates if the share of equal values, which estimates the
sets' Jaccard similarity to ±0.03, reaches the threshold. b and r are those that miss least at the threshold, nine times
as much as they find too much, for what they find is looked at again: at 0.8 that is 14 bands of 9, which find 87% of
the pairs at the threshold itself, 99.9% at 0.9, and 3% at 0.5.

For books LLaMA speaks of more than 90% of overlap in content. So there the sets themselves decide: a candidate is a
duplicate if 90% of the smaller set lie in the larger one. A short book inside of a far longer one is no candidate, for
their similarity is small, and both stay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError, require
from arriero.corpus.dedup import Records, distinct, id_key, save_array, sortable
from arriero.corpus.document import Document, Step
from arriero.corpus.exact import RemoveListed
from arriero.corpus.grams import Hashes, hash_grams, hash_words

N = 5
"""Words of a gram; in scripts without spaces a word is a character. A shorter text is one gram."""
PERMUTATIONS, SEED = 128, 1
CONTAINMENT = 0.9
"""LLaMA's overlap of books (section 2.1)."""
LEADERS = 8
"""Documents of a bucket, alike to none before, that each further one is compared with."""
_FLUSH = 1 << 20
"""Grams of which signatures are made together."""


@dataclass(frozen=True)
class NearDuplicates:
    """The step for a whole corpus; the document of the smallest id stays.

    Documents are the same if a chain of duplicates leads from one to the other. Memory while it is decided: 100 bytes
    a document and its id twice, and with `containment` the 5-grams of two documents.
    """

    threshold: float = 0.8
    """Similarity from which on two documents are the same."""
    containment: float | None = None
    """Share of the smaller document's 5-grams that decides instead; the threshold then only finds candidates."""
    name: str = "near duplicates"

    def __post_init__(self) -> None:
        for value in (self.threshold, self.containment):
            if value is not None and not 0 < value <= 1:
                raise ArrieroError(f"near_duplicates: expected more than 0 and at most 1, got {value}")

    def collector(self) -> "_Collector":
        """Gathers signatures, and for containment the 5-grams."""
        return _Collector(self.threshold, with_grams=self.containment is not None)

    def resolve(self, parts: Sequence[Path], verdict: Path) -> None:
        """Write down the keys of the documents that go."""
        corpus = _Corpus(parts)
        groups = _Groups(len(corpus.documents))
        # One that was refused meets the same leader again in other bands.
        agree = lru_cache(1 << 16)(lambda first, second: self._agree(corpus, first, second))
        for band in range(choose_bands(self.threshold)[0]):
            for bucket in corpus.buckets(band):
                leaders: list[int] = []
                for index in bucket:
                    for leader in leaders:
                        if groups.find(leader) == groups.find(index):
                            break
                        if agree(leader, index):
                            groups.join(leader, index)
                            break
                    else:
                        leaders += [index] if len(leaders) < LEADERS else []
        keepers = corpus.documents[[groups.find(index) for index in range(len(corpus.documents))]]
        save_array(distinct(corpus.documents[corpus.documents != keepers]), verdict)

    def _agree(self, corpus: "_Corpus", first: int, second: int) -> bool:
        if self.containment is None:
            equal = corpus.signature(first) == corpus.signature(second)
            return bool(np.mean(equal) >= self.threshold)
        return containment(corpus.grams(first), corpus.grams(second)) >= self.containment

    def step(self, verdict: Path) -> Step:
        """The step that removes them."""
        return RemoveListed(self.name, "much like another document", verdict)


def containment(grams: Hashes, others: Hashes) -> float:
    """|A ∩ B| / min(|A|, |B|) of two sorted sets."""
    smaller = min(len(grams), len(others))
    return len(np.intersect1d(grams, others, assume_unique=True)) / smaller if smaller else 0.0


@cache
def choose_bands(threshold: float) -> tuple[int, int]:
    """The number of bands and of rows in each that err least about a threshold.

    Two sets of similarity s are candidates with probability 1 - (1 - sʳ)ᵇ (Leskovec et al., Mining of Massive Datasets,
    section 3.4.2).
    """
    s = np.linspace(0, 1, 1001)
    best, error = (1, PERMUTATIONS), np.inf
    for rows in range(1, PERMUTATIONS + 1):
        for bands in range(1, PERMUTATIONS // rows + 1):
            found = 1 - (1 - s**rows) ** bands
            missed = 0.9 * np.mean((1 - found) * (s >= threshold)) + 0.1 * np.mean(found * (s < threshold))
            if missed < error:
                best, error = (bands, rows), float(missed)
    return best


class _Collector:
    """Holds 8 bytes a word of the documents that wait for their signature, and of all of them with their grams."""

    def __init__(self, threshold: float, *, with_grams: bool) -> None:
        self._bands, self._rows = choose_bands(threshold)
        self._with_grams = with_grams
        self._ids: list[str] = []
        self._waiting: list[Hashes] = []
        self._number = 0
        self._signatures = [np.zeros((0, PERMUTATIONS), np.uint32)]
        self._grams: list[Hashes] = []

    def add(self, document: Document) -> None:
        words = hash_words(document.text)
        if not len(words):
            return
        grams = hash_grams(words, min(N, len(words)))
        self._ids.append(document.id)
        self._waiting.append(grams)
        self._number += len(grams)
        if self._with_grams:
            self._grams.append(distinct(grams))
        if self._number >= _FLUSH or len(self._waiting) >= _FLUSH // PERMUTATIONS:
            self._sign()

    def _sign(self) -> None:
        rensa = require("rensa", extra="corpus", purpose="finding near duplicates")
        bounds = np.cumsum([0, *map(len, self._waiting)]).astype(np.uint64)
        hashes = np.concatenate([np.zeros(0, np.uint64), *self._waiting])
        signed = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, bounds, PERMUTATIONS, SEED)
        self._signatures.append(np.array(signed.to_rows(), np.uint32).reshape(-1, PERMUTATIONS))
        self._waiting.clear()
        self._number = 0

    def save(self, path: Path) -> None:
        self._sign()
        signatures = np.concatenate(self._signatures)
        bands = signatures[:, : self._bands * self._rows].reshape(len(signatures), self._bands, self._rows)
        keys = hash_grams(bands.transpose(2, 1, 0).astype(np.uint64), self._rows)[0]
        with path.open("wb") as file:
            np.save(file, np.array([id_key(identity) for identity in self._ids], np.uint64))
            np.save(file, sortable(self._ids))
            np.save(file, signatures)
            np.save(file, np.ascontiguousarray(keys))
            np.save(file, np.cumsum([0, *map(len, self._grams)]).astype(np.int64))
            np.save(file, np.concatenate([np.zeros(0, np.uint64), *self._grams]))


class _Corpus:
    """The records of all parts, mapped into memory; documents are numbered in the order of their ids."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._parts = [_map_arrays(part, 6) for part in parts]
        self._starts = np.cumsum([0, *(len(part[0]) for part in self._parts)])
        documents = np.concatenate([np.zeros(0, np.uint64), *(part[0] for part in self._parts)])
        ids = np.concatenate([np.zeros(0, "S1"), *(part[1] for part in self._parts)])
        self._order = np.lexsort((documents, ids))
        self.documents: NDArray[np.uint64] = documents[self._order]

    def buckets(self, band: int) -> Iterator[list[int]]:
        """Documents that agree in a band, in order; those that agree with none are left out."""
        keys = np.concatenate([np.zeros(0, np.uint64), *(part[3][band] for part in self._parts)])[self._order]
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        same = np.concatenate([[False], ordered[1:] == ordered[:-1], [False]])
        for start, end in np.flatnonzero(same[1:] != same[:-1]).reshape(-1, 2).tolist():
            yield order[start : end + 1].tolist()

    def signature(self, index: int) -> NDArray[np.uint32]:
        part, row = self._place(index)
        return self._parts[part][2][row]  # type: ignore[no-any-return]

    def grams(self, index: int) -> Hashes:
        part, row = self._place(index)
        *_, bounds, grams = self._parts[part]
        return np.asarray(grams[bounds[row] : bounds[row + 1]])

    def _place(self, index: int) -> tuple[int, int]:
        at = int(self._order[index])
        part = int(np.searchsorted(self._starts, at, "right")) - 1
        return part, at - int(self._starts[part])


def _map_arrays(path: Path, number: int) -> tuple[Records, ...]:
    """The arrays that were saved one after the other in a file, which is mapped into memory once."""
    content = np.memmap(path, np.uint8, "r")
    arrays: list[Records] = []
    with path.open("rb") as file:
        while len(arrays) < number:
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            arrays.append(np.ndarray(shape, kind, content, file.tell()))
            file.seek(arrays[-1].nbytes, 1)
    return tuple(arrays)


class _Groups:
    """Sets that are joined (union-find); the smallest number stands for its set."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def join(self, first: int, second: int) -> None:
        one, other = self.find(first), self.find(second)
        self._parent[max(one, other)] = min(one, other)
