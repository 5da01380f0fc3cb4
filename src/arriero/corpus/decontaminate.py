"""Documents that hold parts of an evaluation set go (Brown et al. 2020, arXiv 2005.14165, appendix C).

A part is 13 words in a row, without case and punctuation. A shorter text of an evaluation set counts as a whole if it
has 8 words at least; still shorter ones say nothing and are passed over.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arriero.common.compression import DAMAGE, open_bytes
from arriero.common.errors import FormatError, NotFoundError
from arriero.corpus.dedup import key_of
from arriero.corpus.document import Document
from arriero.tokenizer.measure import split_words

N, SHORTEST = 13, 8
_NO_WORD = re.compile(r"[^\w\s]+|_")


class Decontaminate:
    """The step that drops them. The parts are read once in each worker: 8 bytes for each word of the sets."""

    name = "decontamination"

    def __init__(self, evaluations: Sequence[Path]) -> None:
        """See that the sets can be read.

        Args:
            evaluations: text files (a text each), JSON files and JSON Lines (every string in them is a text).

        Raises:
            NotFoundError, FormatError: one is not there, no text, or holds nothing of 8 words.
        """
        self._paths = tuple(evaluations)
        for path in self._paths:
            if not path.is_file():
                raise NotFoundError(f"no such file: {path}")
        if not len(self._parts[N]) and all(not len(parts) for parts in self._parts.values()):
            raise FormatError(f"evaluations: nothing of {SHORTEST} words or more in {', '.join(map(str, self._paths))}")

    @cached_property
    def _parts(self) -> dict[int, NDArray[np.uint64]]:
        """By their numbers of words: the hashes of all parts, sorted."""
        found: dict[int, set[int]] = {n: set() for n in range(SHORTEST, N + 1)}
        for path in self._paths:
            for text in _texts(path):
                words = _words(text)
                n = min(N, len(words))
                if n >= SHORTEST:
                    found[n].update(_keys(words, n))
        return {n: np.array(sorted(keys), np.uint64) for n, keys in found.items()}

    def __call__(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            if not document.dropped and self._holds_part(document.text):
                document = document.drop("decontamination: part of an evaluation set")
            yield document

    def _holds_part(self, text: str) -> bool:
        words = _words(text)
        for n, parts in self._parts.items():
            if not len(parts) or len(words) < n:
                continue
            keys = np.array(_keys(words, n), np.uint64)
            at = np.minimum(np.searchsorted(parts, keys), len(parts) - 1)
            if np.any(parts[at] == keys):
                return True
        return False


def _words(text: str) -> list[str]:
    return split_words(_NO_WORD.sub(" ", text.lower()))


def _keys(words: Sequence[str], n: int) -> list[int]:
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    return [key_of(b" ".join(encoded[start : start + n])) for start in range(len(words) - n + 1)]


def _texts(path: Path) -> Iterator[str]:
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
                    yield from _strings(json.loads(line))
        elif ".json" in kind:
            yield from _strings(json.loads(text))
        else:
            yield text
    except (*DAMAGE, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: expected text or JSON in UTF-8 ({' '.join(str(error).split())})") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
