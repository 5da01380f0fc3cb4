"""Of documents with the same text one stays: that of the smallest id, whatever their order and number of files."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arriero.corpus.dedup import Records, id_key, key_of, load_array, ranges, save_array
from arriero.corpus.document import Document, Step

_TYPE = np.dtype([("text", "<u8"), ("check", "<u8"), ("id", "S64"), ("document", "<u8")])
"""128 bits of the text's hash, the id's beginning as it sorts, and its key."""


@dataclass(frozen=True)
class ExactDuplicates:
    """The step for a whole corpus: equal texts have equal 128-bit hashes, and others practically never."""

    name: str = "exact duplicates"

    def collector(self) -> "_Collector":
        """Gathers each text's hash."""
        return _Collector()

    def resolve(self, parts: Sequence[Path], verdict: Path) -> None:
        """Write down the keys of the documents that go."""
        gone = [np.zeros(0, np.uint64)]
        for records in ranges(parts, "text"):
            order = np.lexsort((records["document"], records["id"], records["check"], records["text"]))
            ordered = records[order]
            same = (ordered["text"][1:] == ordered["text"][:-1]) & (ordered["check"][1:] == ordered["check"][:-1])
            gone.append(ordered["document"][1:][same])
        save_array(np.sort(np.concatenate(gone)), verdict)

    def step(self, verdict: Path) -> Step:
        """The step that removes them."""
        return RemoveListed(self.name, "copy of another document", verdict)


class _Collector:
    def __init__(self) -> None:
        self._rows: list[tuple[int, int, bytes, int]] = []

    def add(self, document: Document) -> None:
        text, identity = document.text.encode("utf-8", "surrogatepass"), document.id.encode("utf-8", "surrogatepass")
        self._rows.append((key_of(text), key_of(b"check" + text), identity[:64], id_key(document.id)))

    def save(self, path: Path) -> None:
        save_array(np.array(self._rows, _TYPE), path)


class RemoveListed:
    """The step that drops the documents whose keys are in a sorted list."""

    def __init__(self, name: str, reason: str, verdict: Path) -> None:
        self.name, self._reason = name, f"{name}: {reason}"
        self._gone: Records = load_array(verdict)

    def __call__(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            yield document.drop(self._reason) if not document.dropped and self._is_listed(document) else document

    def _is_listed(self, document: Document) -> bool:
        key = np.uint64(id_key(document.id))
        at = int(np.searchsorted(self._gone, key))
        return at < len(self._gone) and bool(self._gone[at] == key)
