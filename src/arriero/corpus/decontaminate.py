"""Documents that hold parts of an evaluation set go (Brown et al. 2020, arXiv 2005.14165, appendix C).

A part is 13 words in a row, without case and punctuation. A shorter text of an evaluation set counts as a whole if it
has 8 words at least; still shorter ones say nothing, are passed over and counted.

GPT-3's way, which spares long documents, is to cut a part out with 200 characters on both sides: what lies between two
cuts stays if it is 200 characters long, and a document of more than 10 such pieces goes after all. There each piece
became a document; here they stay together, a blank line between them. GPT-3 also let parts pass that more than 10
documents held, as mere phrases; here none is.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from arriero.common.compression import DAMAGE, open_bytes
from arriero.common.errors import FormatError, NotFoundError
from arriero.corpus.dedup import distinct
from arriero.corpus.document import Document
from arriero.corpus.grams import Hashes, growing_grams, hash_words, word_spans

N, SHORTEST = 13, 8
MARGIN, PIECES = 200, 10
"""Characters that are cut on both sides of a part, and at least stand between two; the most pieces of a document."""
_TEXTS = 10_000
"""Texts of a set whose parts are made together."""
_REASON = "decontamination: part of an evaluation set"


class Decontaminate:
    """The step that drops or cuts them. In each worker it holds 16 to 24 bytes for each different part of the sets."""

    name = "decontamination"

    def __init__(self, evaluations: Sequence[Path], *, fields: Sequence[str] = (), cut: bool = False) -> None:
        """Read the sets.

        Args:
            evaluations: text files (a text each), JSON files and JSON Lines (every string in them is a text).
            fields: names of the JSON fields, at any depth, whose strings are looked at; all by default. Say which if
                a set repeats public text, as the passages that questions are asked about.
            cut: take parts out of documents, rather than drop these.

        Raises:
            NotFoundError, FormatError: one is not there, no text, or all hold nothing of 8 words.
        """
        self._cut = cut
        self.passed_over = 0
        """Texts of the sets that are too short to be found."""
        found: dict[int, list[Hashes]] = {n: [np.zeros(0, np.uint64)] for n in range(SHORTEST, N + 1)}
        for path in evaluations:
            if not path.is_file():
                raise NotFoundError(f"no such file: {path}")
            texts = _texts(path, frozenset(fields))
            while words := [hash_words(text) for text in islice(texts, _TEXTS)]:
                self.passed_over += sum(len(each) < SHORTEST for each in words)
                for n, grams in _parts(words):
                    found[n].append(grams)
        self._parts = {n: _Parts(distinct(np.concatenate(grams))) for n, grams in found.items() if sum(map(len, grams))}
        if not self._parts:
            raise FormatError(f"evaluations: nothing of {SHORTEST} words or more in {', '.join(map(str, evaluations))}")

    def __call__(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            hits = [] if document.dropped else self._find(hash_words(document.text))
            if not hits:
                yield document
            elif self._cut:
                yield _cut_out(document, hits)
            else:
                yield document.drop(_REASON)

    def _find(self, words: Hashes) -> list[tuple[int, int]]:
        """Where parts begin, in words, and behind which word they end."""
        hits = []
        for n, grams in enumerate(islice(growing_grams(words), min(max(self._parts), len(words))), start=1):
            if n in self._parts:
                hits += [(start, start + n) for start in self._parts[n].find(grams)]
        return sorted(hits)


class _Parts:
    """Parts of one number of words. A table of the first bits, an eighth of it set at most, spares most searches."""

    def __init__(self, grams: Hashes) -> None:
        self._grams = grams
        bits = max(10, (8 * len(grams)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, bool)
        self._table[grams >> self._shift] = True

    def find(self, grams: Hashes) -> list[int]:
        """The places of those that are among them."""
        places = np.flatnonzero(self._table[grams >> self._shift])
        asked = grams[places]
        at = np.minimum(np.searchsorted(self._grams, asked), len(self._grams) - 1)
        return places[self._grams[at] == asked].tolist()  # type: ignore[no-any-return]


def _parts(texts: Sequence[Hashes]) -> Iterator[tuple[int, Hashes]]:
    """By numbers of words: the parts of texts, a short one being one as a whole."""
    sizes = np.array([len(words) for words in texts])
    ends = np.cumsum(sizes)
    for n, grams in enumerate(islice(growing_grams(np.concatenate(texts)), N), start=1):
        if n == N:
            yield n, grams[np.arange(len(grams)) + N <= np.repeat(ends, sizes)[: len(grams)]]
        elif n >= SHORTEST:
            yield n, grams[(ends - sizes)[sizes == n]]


def _cut_out(document: Document, hits: Sequence[tuple[int, int]]) -> Document:
    """The document without these words and what is near to them.

    Args:
        hits: where parts begin and end, in words, in order.
    """
    spans = word_spans(document.text)
    pieces, cuts, done = [], 0, 0
    for first, behind in hits:
        start, end = int(spans[first, 0]) - MARGIN, int(spans[behind - 1, 1]) + MARGIN
        if start > done or not cuts:
            pieces.append(document.text[done : max(0, start)])
            cuts += 1
        done = max(done, end)
    pieces = [piece for piece in [*pieces, document.text[done:]] if len(piece) >= MARGIN]
    if not pieces:
        return document.drop(_REASON)
    if len(pieces) > PIECES:
        return document.drop("decontamination: evaluation sets all over")
    return document.with_text("\n\n".join(pieces)).with_metadata(decontaminated=cuts)


def _texts(path: Path, fields: frozenset[str]) -> Iterator[str]:
    """The texts of an evaluation set.

    Raises:
        FormatError: it is no UTF-8 text, no JSON, or damaged.
    """
    try:
        with open_bytes(path) as (content, _):
            text = content.read().decode("utf-8-sig")
        kind = "".join(path.suffixes)
        if ".jsonl" in kind or ".ndjson" in kind:
            for line in text.split("\n"):
                if line.strip():
                    yield from _strings(json.loads(line), fields)
        elif ".json" in kind:
            yield from _strings(json.loads(text), fields)
        else:
            yield text
    except (*DAMAGE, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: expected text or JSON in UTF-8 ({' '.join(str(error).split())})") from error


def _strings(value: Any, fields: frozenset[str]) -> Iterator[str]:
    """All strings inside of a value, or those below the fields of these names."""
    if isinstance(value, str):
        if not fields:
            yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, frozenset() if key in fields else fields)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, fields)
