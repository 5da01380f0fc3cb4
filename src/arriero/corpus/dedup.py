"""Deduplication as a part of a recipe: what each piece of a corpus collects, what all together decide, what goes.

A verdict depends on the documents alone: not on how many pieces they lie in, nor on the order of these. It names
documents by their ids and passages by their hashes, never by position.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from arriero.corpus.document import Document, Step

Records = NDArray[Any]


class Collector(Protocol):
    """Gathers what a corpus-wide step must know of one piece's documents."""

    def add(self, document: Document) -> None:
        """Take in one document."""
        ...

    def save(self, path: Path) -> None:
        """Write it all to a file."""
        ...


@runtime_checkable
class CorpusStep(Protocol):
    """A part of a recipe that looks at all documents at once."""

    @property
    def name(self) -> str:
        """What provenance and statistics call it."""
        ...

    def collector(self) -> Collector:
        """A new one, for one piece."""
        ...

    def resolve(self, parts: Sequence[Path], verdict: Path) -> None:
        """Decide what goes, from the files of all collectors, and write it down; in bounded memory."""
        ...

    def step(self, verdict: Path) -> Step:
        """The step that removes it."""
        ...


BUDGET = 1 << 28
"""Bytes of records that are looked at together while a verdict is reached."""
_LONGEST_ID = 256


def key_of(data: bytes) -> int:
    """64 bits of a hash: two of a billion different things have the same with a chance of about 3 in 100."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def id_key(identity: str) -> int:
    """What stands for a document in the records of a collector."""
    return key_of(identity.encode("utf-8", "surrogatepass"))


def sortable(identities: Sequence[str]) -> Records:
    """Ids as bytes that sort as they do; of those that agree in `_LONGEST_ID` bytes, nobody is the first."""
    return np.array([identity.encode("utf-8", "surrogatepass")[:_LONGEST_ID] for identity in identities], "S")


def distinct(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each key once, sorted; `numpy.unique` takes a hundred times as long."""
    ordered = np.sort(keys)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]  # type: ignore[no-any-return]


def save_array(array: Records, path: Path) -> None:
    """Write an array to exactly this path (`numpy.save` would add a suffix)."""
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def load_array(path: Path) -> Records:
    """Map an array into memory; what is not looked at takes none."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except ValueError:  # an empty array cannot be mapped
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]


def ranges(parts: Sequence[Path], field: str, budget: int | None = None) -> Iterator[Records]:
    """All records of all parts, those with equal keys together, so many at a time as the budget allows.

    Args:
        parts: files of `save_array`, all of one structured type.
        field: the 64-bit key. It is a hash, so its values lie evenly and a range of them is a share of the records.
        budget: bytes; `BUDGET` by default.
    """
    arrays = [load_array(part) for part in parts]
    size = sum(array.nbytes for array in arrays)
    passes = max(1, -(-size // (budget or BUDGET)))
    for number in range(passes if arrays else 0):
        low, high = (number << 64) // passes, ((number + 1) << 64) // passes
        found = []
        for array in arrays:
            keys = array[field]
            inside = keys >= np.uint64(low)
            if high < 1 << 64:
                inside &= keys < np.uint64(high)
            found.append(array[inside])
        yield np.concatenate(found)
