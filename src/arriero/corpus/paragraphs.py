"""Repeated paragraphs go (CCNet: Wenzek et al. 2020, arXiv 1911.00359, 3.1; C4: Raffel et al. 2020, 1910.10683, 2.2).

    ccnet      lines; *all* copies of one that occurs twice go, the first too: what is repeated is boilerplate
    c4-paper   spans of three sentences; one copy stays
    c4-code    lines; one copy stays

CCNet knows a line by what is left of it when case, digits, punctuation and control characters do not count, and leaves
a page's first line, its title, alone; C4 lower-cases. A key is the first 8 bytes of a SHA-1: among a billion different
lines some two have the same with a chance of about 3 in 100.
"""

import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from arriero.corpus.dedup import Records, id_key, load_array, ranges, save_array
from arriero.corpus.document import Document, Each, Step

Preset = Literal["ccnet", "c4-paper", "c4-code"]
SHORTEST = 300
"""Characters under which CCNet drops a document before all else."""
SPAN = 3
"""Sentences."""

_PUNCTUATION = "，。、„”“«»１」「《》´∶：？！（）；–—．～’…━〈〉【】％►"
"""Of other scripts; that of ASCII stays, and so do accents."""
_SENTENCE = re.compile(r'.*?(?:[.?!]"?\s+|\n+|[。？！]|\Z)', re.DOTALL)
_TYPE = np.dtype([("key", "<u8"), ("document", "<u8"), ("place", "<u4")])


def shortest(characters: int = SHORTEST) -> Each:
    """The step that drops short documents."""
    reason = f"shorter than {characters} characters"
    return Each("shortest", lambda document: document.drop(reason) if len(document.text) < characters else document)


@cache
def _deleted() -> dict[int, str | None]:
    """Characters that do not count; digits are all zeros."""
    control = [code for code in range(0x2100) if code != 0x0A and unicodedata.category(chr(code)) in ("Cc", "Cf")]
    digits = {code: "0" for code in range(sys.maxunicode) if unicodedata.category(chr(code)) == "Nd"}
    return digits | dict.fromkeys([*control, *map(ord, _PUNCTUATION)])


def normalise(text: str) -> str:
    """A text's lines as CCNet compares them, as many as there were."""
    return "\n".join(line.strip() for line in text.lower().translate(_deleted()).split("\n"))


@dataclass(frozen=True)
class RepeatedParagraphs:
    """The step for a whole corpus.

    Memory: while a verdict is reached 256 MB, and some times that to sort it; in each worker 20 bytes for each repeated
    paragraph.
    """

    preset: Preset = "ccnet"

    @property
    def name(self) -> str:
        return f"repeated paragraphs ({self.preset})"

    def collector(self) -> "_Collector":
        """Gathers each paragraph's key."""
        return _Collector(self)

    def resolve(self, parts: Sequence[Path], verdict: Path) -> None:
        """Write down the key of each repeated paragraph, and where its first copy stands."""
        repeated = [np.zeros(0, _TYPE)]
        for units in ranges(parts, "key"):
            order = np.lexsort((units["place"], units["document"], units["key"]))
            ordered = units[order]
            starts = np.flatnonzero(np.append(True, ordered["key"][1:] != ordered["key"][:-1])[: len(ordered)])
            counts = np.diff(np.append(starts, len(ordered)))
            repeated.append(ordered[starts[counts > 1]])
        save_array(np.concatenate(repeated), verdict)

    def step(self, verdict: Path) -> Step:
        """The step that removes them."""
        return _Remover(self, verdict)

    @property
    def first(self) -> int:
        """The first paragraph that is compared: a title is not."""
        return 1 if self.preset == "ccnet" else 0

    def cut(self, text: str) -> list[str]:
        """Lines or sentences with all that stands between them: joined they are the text."""
        if self.preset == "c4-paper":
            return [sentence for sentence in _SENTENCE.findall(text) if sentence]
        *lines, last = text.split("\n")
        return [f"{line}\n" for line in lines] + [last]

    def keys(self, pieces: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
        """Where the paragraphs that are compared begin among the pieces, and their keys."""
        if self.preset == "ccnet":
            units = normalise("".join(pieces[self.first :])).split("\n")
        else:
            units = [piece.lower().strip() for piece in pieces]
        if self.preset == "c4-paper":
            units = ["\n".join(units[start : start + SPAN]) for start in range(len(units) - SPAN + 1)]
        places = [place for place, unit in enumerate(units) if unit]
        texts = (units[place].encode("utf-8", "surrogatepass") for place in places)
        digests = (hashlib.sha1(text, usedforsecurity=False).digest()[:8] for text in texts)
        keys = np.frombuffer(b"".join(digests), "<u8")
        return np.array(places, np.intp) + self.first, keys


class _Collector:
    def __init__(self, settings: RepeatedParagraphs) -> None:
        self._settings = settings
        self._parts: list[Records] = []

    def add(self, document: Document) -> None:
        places, keys = self._settings.keys(self._settings.cut(document.text))
        part = np.zeros(len(keys), _TYPE)
        part["key"], part["document"], part["place"] = keys, id_key(document.id), places
        self._parts.append(part)

    def save(self, path: Path) -> None:
        save_array(np.concatenate([np.zeros(0, _TYPE), *self._parts]), path)


class _Remover:
    def __init__(self, settings: RepeatedParagraphs, verdict: Path) -> None:
        self.name = settings.name
        self._settings = settings
        self._repeated = load_array(verdict)
        self._keys = np.ascontiguousarray(self._repeated["key"])

    def __call__(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            yield document if document.dropped else self._remove(document)

    def _remove(self, document: Document) -> Document:
        pieces = self._settings.cut(document.text)
        places, keys = self._settings.keys(pieces)
        at = np.searchsorted(self._keys, keys)
        last = len(self._keys) - 1  # a key beyond it is greater, so that it is not equal
        found = self._keys[np.minimum(at, last)] == keys if last >= 0 else np.zeros(len(keys), bool)
        if self._settings.preset != "ccnet":
            own = id_key(document.id)
            kept = self._repeated[at[found]]
            found[found] = (kept["document"] != own) | (kept["place"] != places[found])
        if not found.any():
            return document
        width = SPAN if self._settings.preset == "c4-paper" else 1
        gone = {int(place) + more for place in places[found] for more in range(width)}
        left = [piece for place, piece in enumerate(pieces) if place not in gone]
        if not any(piece.strip() for piece in left[self._settings.first :]):
            return document.drop(f"{self.name}: nothing is left")
        return document.with_text("".join(left).rstrip("\n"))
