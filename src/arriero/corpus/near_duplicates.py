"""Of documents that nearly agree one stays (MinHash: Broder 1997; locality-sensitive hashing: Indyk & Motwani 1998).

A document is the set of its 5-grams of words. `rensa` makes its signature; signatures that agree in one of b bands of r
values are candidates, and are taken for duplicates if the share of equal values, which estimates the sets' Jaccard
similarity to ±0.04, reaches the threshold. b and r are those that miss least at the threshold, nine times as much as
they find too much, for what they find is looked at again.

For books LLaMA speaks of more than 90% of overlap in content. So there the sets themselves decide: a candidate is a
duplicate if 90% of the smaller set lie in the larger one. A short book inside of a far longer one is no candidate, for
their similarity is small, and both stay.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arriero.common.errors import ArrieroError, require
from arriero.corpus.dedup import Records, id_key, save_array
from arriero.corpus.document import Document, Step
from arriero.corpus.exact import RemoveListed
from arriero.tokenizer.measure import split_words

N = 5
"""Words of a gram; in scripts without spaces a word is a character."""
PERMUTATIONS, SEED = 128, 1
CONTAINMENT = 0.9
"""LLaMA's overlap of books (section 2.1)."""
_NO_WORD = re.compile(r"[^\w\s]+|_")
_TYPE = np.dtype([("document", "<u8"), ("id", "S64"), ("signature", "<u4", (PERMUTATIONS,))])


@dataclass(frozen=True)
class NearDuplicates:
    """The step for a whole corpus; the document of the smallest id stays.

    Memory while it is decided: about 100 bytes a document, and with `containment` the 5-grams of two documents.
    """

    threshold: float = 0.8
    """Similarity from which on two documents are the same."""
    containment: float | None = None
    """Share of the smaller document's 5-grams that decides instead; the threshold then only finds candidates."""
    name: str = "near duplicates"

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ArrieroError(f"near_duplicates: expected more than 0 and at most 1, got {self.threshold}")

    def collector(self) -> "_Collector":
        """Gathers signatures, and for containment the 5-grams."""
        return _Collector(with_grams=self.containment is not None)

    def resolve(self, parts: Sequence[Path], verdict: Path) -> None:
        """Write down the keys of the documents that go."""
        corpus = _Corpus(parts)
        groups = _Groups(len(corpus.documents))
        bands, rows = choose_bands(self.threshold)
        for band in range(bands):
            for first, second in corpus.candidates(band * rows, rows):
                if groups.find(first) != groups.find(second) and self._agree(corpus, first, second):
                    groups.join(first, second)
        by_id = np.lexsort((corpus.documents, corpus.ids))
        gone, seen = [], set[int]()
        for index in by_id.tolist():
            if (group := groups.find(index)) in seen:
                gone.append(corpus.documents[index])
            seen.add(group)
        save_array(np.sort(np.array(gone, np.uint64)), verdict)

    def _agree(self, corpus: "_Corpus", first: int, second: int) -> bool:
        if self.containment is None:
            equal = corpus.signature(first) == corpus.signature(second)
            return bool(np.mean(equal) >= self.threshold)
        return containment(corpus.grams(first), corpus.grams(second)) >= self.containment

    def step(self, verdict: Path) -> Step:
        """The step that removes them."""
        return RemoveListed(self.name, "much like another document", verdict)


def shingles(text: str) -> list[str]:
    """The n-grams of a text's words, without case and punctuation; a shorter text is one gram."""
    words = split_words(_NO_WORD.sub(" ", text.lower()))
    if len(words) < N:
        return [" ".join(words)] if words else []
    return [" ".join(words[start : start + N]) for start in range(len(words) - N + 1)]


def containment(grams: NDArray[np.uint64], others: NDArray[np.uint64]) -> float:
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
    def __init__(self, *, with_grams: bool) -> None:
        self._with_grams = with_grams
        self._rows: list[tuple[int, bytes, list[int]]] = []
        self._grams: list[NDArray[np.uint64]] = []

    def add(self, document: Document) -> None:
        rensa = require("rensa", extra="corpus", purpose="finding near duplicates")
        grams = shingles(document.text)
        if not grams:
            return
        signature = rensa.RMinHash(num_perm=PERMUTATIONS, seed=SEED)
        signature.update(grams)
        identity = document.id.encode("utf-8", "surrogatepass")[:64]
        self._rows.append((id_key(document.id), identity, signature.digest()))
        if self._with_grams:
            # 64 bits of each gram's hash, as Python's own differs from process to process
            hashed = rensa.RMinHash.hash_token_sets([grams])[0]
            self._grams.append(np.unique(np.array(hashed, np.uint64)))

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, np.array(self._rows, _TYPE))
            np.save(file, np.cumsum([0, *map(len, self._grams)]).astype(np.int64))
            np.save(file, np.concatenate([np.zeros(0, np.uint64), *self._grams]))


class _Corpus:
    """The records of all parts, mapped into memory."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._parts = [_map_arrays(part) for part in parts]
        sizes = [len(signatures) for signatures, _, _ in self._parts]
        self._starts = np.cumsum([0, *sizes])
        self.documents = self._gather("document", np.dtype("<u8"))
        self.ids = self._gather("id", np.dtype("S64"))

    def _gather(self, field: str, kind: np.dtype) -> Records:
        return np.concatenate([np.zeros(0, kind), *(signatures[field] for signatures, _, _ in self._parts)])

    def candidates(self, start: int, rows: int) -> Iterator[tuple[int, int]]:
        """Pairs of documents that agree in a band: each with the first of its bucket, and with the one before."""
        bands = [signatures["signature"][:, start : start + rows] for signatures, _, _ in self._parts]
        values = np.concatenate([np.zeros((0, rows), np.uint32), *bands])
        _, bucket = np.unique(values, axis=0, return_inverse=True)
        order = np.lexsort((self.documents, self.ids, bucket))
        ordered = bucket[order]
        first = 0
        for place in range(1, len(order)):
            if ordered[place] != ordered[place - 1]:
                first = place
                continue
            yield int(order[first]), int(order[place])
            if place - 1 > first:
                yield int(order[place - 1]), int(order[place])

    def signature(self, index: int) -> NDArray[np.uint32]:
        part, row = self._place(index)
        return self._parts[part][0]["signature"][row]  # type: ignore[no-any-return]

    def grams(self, index: int) -> NDArray[np.uint64]:
        part, row = self._place(index)
        _, bounds, grams = self._parts[part]
        return np.asarray(grams[bounds[row] : bounds[row + 1]])

    def _place(self, index: int) -> tuple[int, int]:
        part = int(np.searchsorted(self._starts, index, "right")) - 1
        return part, index - int(self._starts[part])


def _map_arrays(path: Path) -> tuple[Records, ...]:
    """The arrays that were saved one after the other in a file, mapped into memory."""
    arrays: list[Records] = []
    with path.open("rb") as file:
        while len(arrays) < 3:
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            size = int(np.prod(shape))
            arrays.append(np.memmap(path, kind, "r", file.tell(), shape) if size else np.zeros(shape, kind))
            file.seek(size * kind.itemsize, 1)
    return tuple(arrays)


class _Groups:
    """Sets that are joined (union-find)."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def join(self, first: int, second: int) -> None:
        self._parent[self.find(second)] = self.find(first)
