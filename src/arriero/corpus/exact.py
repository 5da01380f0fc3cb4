"""Of documents with the same text one stays: that of the smallest id, whatever their order and number of files.

Readers decode strictly, so texts are equal when the files' bytes are, but for a byte order mark.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arriero.corpus.dedup import Records, distinct, id_key, key_of, load_array, ranges, save_array, sortable
from arriero.corpus.document import Document, Step


@dataclass(frozen=True)
class ExactDuplicates:
    """The step for a whole corpus: equal texts have equal 128-bit hashes, and others practically never.

    Ids are unique in a corpus. Should two documents with one id have the same text, both stay: nothing tells which one
    is meant, and no text may be lost. Memory: `BUDGET` to reach a verdict and some times that to sort it, and in each
    worker 8 bytes for each document that goes.
    """

    name: str = "exact duplicates"

    def collector(self) -> "_Collector":
        """Gathers each text's hash."""
        return _Collector()

    def resolve(self, parts: Sequence[Path], verdict: Path) -> None:
        """Write down the keys of the documents that go."""
        gone = [np.zeros(0, np.uint64)]
        for records in ranges(parts, "text"):
            ordered = records[np.lexsort((records["document"], records["id"], records["check"], records["text"]))]
            same = (ordered["text"][1:] == ordered["text"][:-1]) & (ordered["check"][1:] == ordered["check"][:-1])
            starts = np.append(True, ~same)[: len(ordered)]
            keeper = ordered["document"][starts][np.cumsum(starts) - 1]
            gone.append(ordered["document"][ordered["document"] != keeper])
        save_array(distinct(np.concatenate(gone)), verdict)

    def step(self, verdict: Path) -> Step:
        """The step that removes them."""
        return RemoveListed(self.name, "copy of another document", verdict)


class _Collector:
    def __init__(self) -> None:
        self._ids: list[str] = []
        self._texts: list[tuple[int, int]] = []

    def add(self, document: Document) -> None:
        text = document.text.encode("utf-8", "surrogatepass")
        self._ids.append(document.id)
        self._texts.append((key_of(text), key_of(b"check" + text)))

    def save(self, path: Path) -> None:
        ids = sortable(self._ids)
        kind = np.dtype([("text", "<u8"), ("check", "<u8"), ("id", ids.dtype), ("document", "<u8")])
        records = np.zeros(len(ids), kind)
        records["text"], records["check"] = np.array(self._texts, np.uint64).reshape(-1, 2).T
        records["id"], records["document"] = ids, np.array([id_key(identity) for identity in self._ids], np.uint64)
        save_array(records, path)


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
