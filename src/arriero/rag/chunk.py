"""A document to passages: the paper's disjoint 100-word ones (Lewis et al. 2020, section 3), or whole sentences.

Whatever the settings, `passage.text == document.text[passage.start:passage.end]`; the passages come in order, and
every character that is no blank is in at least one. A passage may run over pages (both are recorded), and begins anew
at a heading when it has enough words by then. Time is linear in the text, and memory in the longest passage.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from arriero.common.errors import ArrieroError
from arriero.parsers.document import Document
from arriero.rag.passage import Passage
from arriero.rag.sentences import ends_sentence
from arriero.rag.words import MAX_RUN, WORD, Atom, atoms


@dataclass(frozen=True, kw_only=True)
class ChunkConfig:
    """How documents are cut into passages; words are counted as in `arriero.rag.words`."""

    kind: Literal["words", "sentences"] = "sentences"
    """words: exactly so many words each; sentences: as many whole sentences as fit."""
    words: int = 100
    """Most words of a passage; the paper's number."""
    overlap: int = 0
    """Words that a passage repeats from the one before, at most half of `words`; 0, the paper's, makes them disjoint.
    With kind 'sentences', at least so many words in whole sentences, as far as those fit in half a passage."""
    heading_words: int = 25
    """Words that a passage must have for a heading to end it; 0: always, `words`: never, as in the paper."""

    def __post_init__(self) -> None:
        if self.kind not in ("words", "sentences"):
            raise ArrieroError(f"kind of passages must be 'words' or 'sentences', not '{self.kind}'")
        if self.words < 1:
            raise ArrieroError(f"words must be at least 1, not {self.words}")
        if not 0 <= self.overlap <= self.words // 2:
            raise ArrieroError(f"overlap must be from 0 to half of words ({self.words // 2}), not {self.overlap}")
        if self.heading_words < 0:
            raise ArrieroError(f"heading_words must not be negative, not {self.heading_words}")

    @property
    def max_characters(self) -> int:
        """Characters that a passage may have, blanks included: 32 a word, and room for one atom at its longest."""
        return self.words * MAX_RUN + 128


def split(document: Document, config: ChunkConfig) -> list[Passage]:
    """The passages of a document; [] when it has no character that is not blank."""
    cuts = _Cuts(document, config)
    units: Iterable[Atom] = atoms(document.text)
    if config.kind == "sentences":
        units = _sentences(document.text, units, cuts)
    spans = list(_pack(units, config, cuts))
    return [_passage(document, start, end, ordinal, cuts) for ordinal, (start, end) in enumerate(spans)]


class _Cuts:
    """Where a document's sections lie, asked for by offset."""

    def __init__(self, document: Document, config: ChunkConfig) -> None:
        self.limit = config.words * WORD
        self.max_characters = config.max_characters
        self._document = document
        titles = [section.title for section in document.sections]
        changes = (title != before for before, title in pairwise([None, *titles]))
        # Number of changes of title up to each section: two sections under one heading have the same.
        self._heading = list(accumulate(changes, initial=0))[1:]

    def section_at(self, offset: int) -> int:
        """Index of the section that holds the character at `offset`."""
        return bisect_right(self._document.section_starts, offset) - 1

    def same_heading(self, first: int, second: int) -> bool:
        """Whether no heading stands between two offsets."""
        return self._heading[self.section_at(first)] == self._heading[self.section_at(second)]

    def too_much(self, start: int, end: int, weight: int) -> bool:
        """Whether a passage could not hold this span of this weight."""
        return weight > self.limit or end - start > self.max_characters


def _sentences(text: str, pieces: Iterable[Atom], cuts: _Cuts) -> Iterator[Atom]:
    """Atoms joined to sentences; one that no passage could hold comes in parts."""
    current: list[Atom] = []
    weight = 0
    for atom, after in pairwise(_with_end(pieces, len(text))):
        while current and cuts.too_much(current[0].start, atom.end, weight + atom.weight):
            cut = _best_cut(text, current, atom.start)
            part, current = current[:cut], current[cut:]
            part_weight = sum(piece.weight for piece in part)
            weight -= part_weight
            yield Atom(part[0].start, part[-1].end, part_weight)
        current.append(atom)
        weight += atom.weight
        if ends_sentence(text, atom.start, atom.end, after.start) or not cuts.same_heading(atom.start, after.start):
            yield Atom(current[0].start, atom.end, weight)
            current, weight = [], 0
    if current:
        yield Atom(current[0].start, current[-1].end, weight)


def _with_end(pieces: Iterable[Atom], end: int) -> Iterator[Atom]:
    yield from pieces
    yield Atom(end, end, 0)


def _best_cut(text: str, pieces: list[Atom], following: int) -> int:
    """How many of an over-long sentence's atoms go first: up to a line's end or else a blank in its second half."""
    starts = [piece.start for piece in pieces[1:]] + [following]
    gaps = [text[piece.end : start] for piece, start in zip(pieces, starts, strict=True)]
    half = len(pieces) // 2
    for accept in (lambda gap: "\n" in gap, bool):
        for index in range(len(gaps) - 1, half - 1, -1):
            if accept(gaps[index]):
                return index + 1
    return len(pieces)


def _pack(units: Iterable[Atom], config: ChunkConfig, cuts: _Cuts) -> Iterator[tuple[int, int]]:
    """Fill passages with units (atoms, or sentences) in order; gives their spans."""
    current: deque[Atom] = deque()
    weight = 0
    new = 0
    for unit in units:
        if current and not cuts.same_heading(current[-1].start, unit.start):
            if new and weight >= config.heading_words * WORD:
                yield current[0].start, current[-1].end
                new = 0
            if not new:  # what was repeated from before the heading doesn't belong here
                current.clear()
                weight = 0
        if current and cuts.too_much(current[0].start, unit.end, weight + unit.weight):
            if new:
                yield current[0].start, current[-1].end
            weight = _keep_overlap(current, config.overlap * WORD, cuts.limit // 2)
            new = 0
            while current and cuts.too_much(current[0].start, unit.end, weight + unit.weight):
                weight -= current.popleft().weight
        current.append(unit)
        weight += unit.weight
        new += 1
    if new:
        yield current[0].start, current[-1].end


def _keep_overlap(units: deque[Atom], wanted: int, most: int) -> int:
    """Drop from the front all but the last units that together weigh at least `wanted`, if within `most`."""
    kept: deque[Atom] = deque()
    weight = 0
    while weight < wanted and units and weight + units[-1].weight <= most:
        kept.appendleft(units.pop())
        weight += kept[0].weight
    units.clear()
    units.extend(kept)
    return weight


def _passage(document: Document, start: int, end: int, ordinal: int, cuts: _Cuts) -> Passage:
    first, last = cuts.section_at(start), cuts.section_at(end - 1)
    sections = document.sections[first : last + 1]
    return Passage(
        text=document.text[start:end],
        document=document.name,
        start=start,
        end=end,
        page=sections[0].page,
        page_end=sections[-1].page,
        section=_main_title(document, range(first, last + 1), start, end),
        ordinal=ordinal,
    )


def _main_title(document: Document, indices: range, start: int, end: int) -> str | None:
    """The title under which most of the span lies, the earliest of equals."""
    share: dict[str | None, int] = {}
    for index in indices:
        section, at = document.sections[index], document.section_starts[index]
        inside = min(end, at + len(section.text)) - max(start, at)
        share[section.title] = share.get(section.title, 0) + inside
    return max(share, key=lambda title: share[title])
