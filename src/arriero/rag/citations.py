"""Citations: which passage supports each sentence of an answer, and the words that do.

A citation is never taken on the model's word. Each sentence of the answer is held against the passages that stood in
the prompt (`evidence.py`), and gets a marker only if one of them supports it; the markers that the model itself wrote
are taken out (`markers.py`). So a marked sentence has its quote, and an unmarked one is known to have none.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from arriero.rag.evidence import SHORT_WORDS, Evidence, SentenceEncoder, Support, content_words, sentence_spans
from arriero.rag.markers import MarkerFilter
from arriero.rag.passage import describe_place
from arriero.rag.prompt import Source

Grounded = Literal["full", "partial", "none"]


@dataclass(frozen=True, kw_only=True)
class Citation:
    """A passage that supports something in the answer, and the words that do."""

    number: int
    """What the answer's markers call it."""
    document: str
    page: int | None
    """Page of the passage's first character, from 1."""
    page_end: int | None
    section: str | None
    quote: str
    """The supporting sentences, as the document has them."""
    start: int
    """The quote's first character in the document's text."""
    end: int
    passage_id: int

    @property
    def place(self) -> str:
        """'report.pdf, page 3, Results': where a reader finds it."""
        return describe_place(self.document, self.page, self.page_end, self.section)

    def to_dict(self) -> dict[str, Any]:
        """Its JSON form."""
        return dataclasses.asdict(self)


def without_markers(text: str) -> str:
    """An answer's text without the markers that a `Grounder` set."""
    return re.sub(r" \[\d+\](?=\s|$)", "", text)


class Grounder:
    """Takes an answer in pieces and gives it back with a marker after each sentence that is supported."""

    def __init__(self, sources: Sequence[Source], question: str, encoder: SentenceEncoder) -> None:
        self.citations: list[Citation] = []
        self.supported = self.unsupported = 0
        self.repeating = False
        """The model has begun to say again what it said: nothing more comes of it, and nothing more is given back."""
        self._pieces = [(source, span) for source in sources for span in source.spans]
        texts = [source.hit.passage.text[start:end] for source, (start, end) in self._pieces]
        headings = [f"{source.hit.passage.document} {source.hit.passage.section or ''}" for source, _ in self._pieces]
        self._evidence = Evidence(texts, headings, question, encoder)
        self._filter = MarkerFilter("\n".join([question, *texts]))
        self._text = ""
        """The answer so far, without the model's markers."""
        self._given = 0
        """How much of it was given back."""
        self._said: Counter[str] = Counter()

    @property
    def grounded(self) -> Grounded:
        """Whether all, some or no sentences that say something are supported."""
        if not self.supported:
            return "none"
        return "partial" if self.unsupported else "full"

    def push(self, piece: str) -> str:
        """More of the answer; returns what can be shown."""
        return self._advance(self._filter.push(piece), ended=False)

    def flush(self) -> str:
        """The answer has ended; returns the rest."""
        return self._advance(self._filter.flush(), ended=True)

    def _advance(self, piece: str, *, ended: bool) -> str:
        if self.repeating:
            return ""
        self._text += piece
        fresh = self._text[self._given :]
        spans = sentence_spans(fresh, line_breaks=True)
        shown, at = "", 0
        for start, end in spans:
            if end >= len(fresh.rstrip()) and not ended:
                break  # it may go on
            if self._repeats(fresh[start:end]):
                return shown
            shown += fresh[at:end] + self._mark(fresh[start:end])
            at = end
        tail = fresh[at:]
        shown += tail.rstrip() if ended else ""
        self._given += len(fresh) if ended else at
        return shown

    def _repeats(self, sentence: str) -> bool:
        """A claim the second time; anything else, such as a line of code, the third time."""
        self._said[" ".join(sentence.split()).casefold()] += 1
        most = 1 if len(content_words(sentence)) > SHORT_WORDS else 2
        self.repeating = self._said[" ".join(sentence.split()).casefold()] > most
        return self.repeating

    def _mark(self, sentence: str) -> str:
        """The marker of a sentence that has ended, or ''."""
        if not content_words(sentence) or sentence.rstrip("\"')”’").endswith(("?", "？")):
            return ""  # it claims nothing
        support = self._evidence.support(sentence)
        if support is None:
            self.unsupported += 1
            return ""
        self.supported += 1
        return f" [{self._cite(support)}]"

    def _cite(self, support: Support) -> int:
        """The number of the citation of a passage; its quote is the first that was needed."""
        source, (offset, _) = self._pieces[support.passage]
        passage = source.hit.passage
        start, end = offset + support.start, offset + support.end
        for citation in self.citations:
            if citation.passage_id == source.hit.passage_id:
                return citation.number
        self.citations.append(
            Citation(
                number=len(self.citations) + 1,
                document=passage.document,
                page=passage.page,
                page_end=passage.page_end,
                section=passage.section,
                quote=passage.text[start:end],
                start=passage.start + start,
                end=passage.start + end,
                passage_id=source.hit.passage_id,
            )
        )
        return len(self.citations)
