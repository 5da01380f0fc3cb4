"""What became of every document: counts by reason, languages and licences, and some of each to look at.

The samples are those whose ids have the smallest hashes, so that they are the same however the work was shared out.
"""

import dataclasses
import heapq
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from arriero.common.files import atomic_file
from arriero.corpus.document import Document
from arriero.tokenizer.measure import count_words

SAMPLES = 5
"""Documents shown of each reason, and of those kept."""
SAMPLE_CHARACTERS = 1500


@dataclass
class Amount:
    """How much."""

    documents: int = 0
    bytes: int = 0
    """In UTF-8."""

    def add(self, size: int) -> None:
        """One more document, of so many bytes."""
        self.documents += 1
        self.bytes += size

    def __iadd__(self, other: Self) -> Self:
        self.documents += other.documents
        self.bytes += other.bytes
        return self


@dataclass(frozen=True, order=True)
class Sample:
    """The beginning of a document, to look at."""

    rank: str
    """The hash of the id: the smallest are shown."""
    id: str
    origin: str
    text: str
    before: str = ""
    """What it was before cleaning, of one that is kept."""


@dataclass
class Ledger:
    """The account of some documents; accounts of parts merge to that of the whole, in any order."""

    read: Amount = field(default_factory=Amount)
    kept: Amount = field(default_factory=Amount)
    words: int = 0
    """Of those kept; in scripts without spaces, characters."""
    dropped: dict[str, Amount] = field(default_factory=dict)
    """By reason."""
    languages: dict[str, int] = field(default_factory=dict)
    """Documents kept, by what language identification or the source says; none where neither speaks."""
    licences: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    """Of each reason, and under '' of those kept."""

    def drop(self, document: Document, size: int) -> None:
        """Count a refused document; `size` is what it had when it was read."""
        assert document.dropped
        self.dropped.setdefault(document.dropped, Amount()).add(size)
        self._show(document.dropped, sample_of(document))

    def keep(self, document: Document, before: str) -> None:
        """Count a document that is kept."""
        self.kept.add(len(document.text.encode()))
        self.words += count_words(document.text)
        if language := document.metadata.get("language"):
            _count(self.languages, str(language))
        if document.licence:
            _count(self.licences, document.licence)
        self._show("", dataclasses.replace(sample_of(document), before=before[:SAMPLE_CHARACTERS]))

    def merge(self, other: Self) -> None:
        """Take in another account."""
        self.read += other.read
        self.kept += other.kept
        self.words += other.words
        for reason, amount in other.dropped.items():
            self.dropped.setdefault(reason, Amount()).__iadd__(amount)
        for language, count in other.languages.items():
            _count(self.languages, language, count)
        for licence, count in other.licences.items():
            _count(self.licences, licence, count)
        for reason, samples in other.samples.items():
            for sample in samples:
                self._show(reason, sample)

    def _show(self, reason: str, sample: Sample) -> None:
        shown = self.samples.setdefault(reason, [])
        if len(shown) < SAMPLES or sample < shown[-1]:
            self.samples[reason] = heapq.nsmallest(SAMPLES, [*shown, sample])

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        with atomic_file(path) as aside:
            aside.write_text(json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            read=Amount(**content["read"]),
            kept=Amount(**content["kept"]),
            words=content["words"],
            dropped={reason: Amount(**amount) for reason, amount in content["dropped"].items()},
            languages=content["languages"],
            licences=content["licences"],
            samples={reason: [Sample(**sample) for sample in shown] for reason, shown in content["samples"].items()},
        )


def _count(counts: dict[str, int], name: str, more: int = 1) -> None:
    counts[name] = counts.get(name, 0) + more


def sample_of(document: Document) -> Sample:
    """What is shown of a document: long texts are cut, and what is no text is a question mark."""
    shown = (document.id, document.origin, document.text[:SAMPLE_CHARACTERS])
    return Sample(rank(document.id), *(text.encode("utf-8", "replace").decode() for text in shown))


def rank(identity: str) -> str:
    """The place of a document in the order that samples are drawn in: as good as chance, and always the same."""
    return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def total(ledgers: Iterable[Ledger]) -> Ledger:
    """The account of the whole."""
    whole = Ledger()
    for ledger in ledgers:
        whole.merge(ledger)
    return whole
