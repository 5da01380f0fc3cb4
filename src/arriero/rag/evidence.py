"""Does a passage say what a sentence says? Words, numbers and meaning are compared, and each can veto.

A sentence of the answer is supported by a stretch of one to three consecutive sentences of a passage if

- every number, name and code word of it is there (a wrong year or a wrong name is the usual way of a small model to
  err),
- enough of its content words are there,
- neither denies what the other affirms (as far as 'not' and its like show), and
- the encoder finds the two close.

The thresholds were chosen on 337 sentences of SmolLM2-135M-Instruct's answers to XQuAD and Python questions. Against an
overlap of 0.5 and a cosine of 0.3 they keep three of four supported sentences that hold the gold answer and half of
those that do not; held against another question's passages, 1 sentence passes. What is let through:
`benchmarks/RESULTS.md`.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from arriero.rag.sentences import ends_sentence
from arriero.rag.words import atoms

MIN_OVERLAP = 0.7
"""Share of the sentence's content words that the stretch must hold."""

MIN_COSINE = 0.6
"""Cosine of sentence and stretch."""

SHORT_WORDS = 3
"""A sentence of at most so many content words ('In 1870.') may be a bare answer. All its words must be there, and where
the question's are there too, its meaning may be compared together with the question."""

MIN_QUESTION_OVERLAP = 0.5
"""Share of the question's content words that a stretch must hold for that."""

WIDEST_STRETCH = 3

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
_TERM = re.compile(rf"\d+(?:[.,:]\d+)*|[{_CJK}]|[^\W{_CJK}]+(?:'[^\W\d_{_CJK}]+)?")
_FUNCTION_WORDS = """
a an and are as at be been being but by can could did do does for from had has have he her his i if in into is it its
may might must not of on one or our she should so some such than that the their them then there these they this those
to up us used was we were what when where which who whom whose why will with would you your also any all both each only
other same very just about more most no how because while during called means refers according passage passages answer
question mentioned stated text per
"""
_STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
_NEGATIONS = frozenset(("not", "no", "never", "none", "nor", "neither", "without", "cannot"))

Vectors = NDArray[np.float32]
Span = tuple[int, int]


class SentenceEncoder(Protocol):
    """What compares meanings."""

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """(N, dim), fp32."""

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """(N, dim), fp32."""


@dataclass(frozen=True)
class Support:
    """Where a sentence's evidence is."""

    passage: int
    """Index of the passage."""
    start: int
    """First character in the passage's text."""
    end: int
    overlap: float
    cosine: float


class Evidence:
    """The passages of one prompt, ready to be asked for support."""

    def __init__(
        self, passages: Sequence[str], headings: Sequence[str], question: str, encoder: SentenceEncoder
    ) -> None:
        """`headings` (document and section names) lend their words to each stretch of their passage, and no more."""
        self._passages, self._question, self._encoder = passages, question, encoder
        self._asked = content_words(question)
        # What the question names and the passage speaks of need not stand in each of its sentences: to 'Who directs
        # Quillmoor?' a passage on Quillmoor says 'The director is …'.
        self._context = [
            stems(heading) | (stems(passage) & stems(question))
            for heading, passage in zip(headings, passages, strict=True)
        ]
        self._stretches = [
            (index, span) for index, passage in enumerate(passages) for span in stretches(sentence_spans(passage))
        ]
        self._present = [stems(passages[index][start:end]) for index, (start, end) in self._stretches]
        self._vectors: Vectors | None = None

    def support(self, sentence: str) -> Support | None:
        """The passage's stretch that supports a sentence best, or None."""
        needed = content_words(sentence)
        if not needed or (len(needed) == 1 and needed <= self._asked):
            return None  # one word of the question, said back, answers nothing
        short = len(needed) <= SHORT_WORDS
        found = self._by_words(sentence, needed, least=1.0 if short else MIN_OVERLAP)
        if not found:
            return None
        asked = [sentence, f"{self._question} {sentence}"]
        cosines = self._stretch_vectors() @ _normalise(self._encoder.encode_passages(asked)).T  # (stretches, 2)
        supports: list[Support] = []
        for at, overlap in found:
            index, (start, end) = self._stretches[at]
            alone, with_question = map(float, cosines[at])
            answers = short and len(self._asked & self._present[at]) >= MIN_QUESTION_OVERLAP * len(self._asked)
            cosine = max(alone, with_question) if answers else alone
            supports.append(Support(index, start, end, overlap, cosine))
        close = [support for support in supports if support.cosine >= MIN_COSINE]
        return max(close, key=lambda support: support.overlap + support.cosine, default=None)

    def _by_words(self, sentence: str, needed: set[str], *, least: float) -> list[tuple[int, float]]:
        """(stretch, overlap) of the stretches whose words support the sentence."""
        rigid, negated = rigid_terms(sentence), is_negated(terms(sentence))
        found: list[tuple[int, float]] = []
        for position, (index, (start, end)) in enumerate(self._stretches):
            present = self._present[position] | self._context[index]
            overlap = len(needed & present) / len(needed)
            if overlap < least or not rigid <= present:
                continue
            if agrees(self._passages[index][start:end], needed, negated=negated):
                found.append((position, overlap))
        return found

    def _stretch_vectors(self) -> Vectors:
        if self._vectors is None:
            texts = [self._passages[index][start:end] for index, (start, end) in self._stretches]
            self._vectors = _normalise(self._encoder.encode_passages(texts))  # (stretches, dim)
        return self._vectors


def sentence_spans(text: str, *, line_breaks: bool = False) -> list[Span]:
    """(start, end) of each sentence, without the blanks around it; with `line_breaks` each line ends one too."""
    spans: list[Span] = []
    start: int | None = None
    pieces = list(atoms(text))
    if not pieces:
        return []
    for atom, following in zip(pieces, [*(piece.start for piece in pieces[1:]), len(text)], strict=True):
        start = atom.start if start is None else start
        ended = ends_sentence(text, atom.start, atom.end, following)
        if ended or (line_breaks and "\n" in text[atom.end : following]):
            spans.append((start, atom.end))
            start = None
    if start is not None:
        spans.append((start, pieces[-1].end))
    return spans


def stretches(spans: Sequence[Span]) -> list[Span]:
    """Every run of one to `WIDEST_STRETCH` consecutive sentences."""
    return [
        (spans[first][0], spans[first + width - 1][1])
        for width in range(1, WIDEST_STRETCH + 1)
        for first in range(len(spans) - width + 1)
    ]


def terms(text: str) -> list[str]:
    """Words, numbers and single CJK characters, in one spelling of case and form."""
    return [term.casefold() for term in _TERM.findall(_one_form(text))]


def content_words(text: str) -> set[str]:
    """Stems of the words that carry meaning, numbers included."""
    return {stem(term) for term in terms(text) if term not in _STOP_WORDS}


def stems(text: str) -> set[str]:
    """Stems of all words, and the words themselves."""
    found = terms(text)
    return {stem(term) for term in found} | set(found)


def stem(word: str) -> str:
    """A word without its common English endings: enough to match 'returns' with 'returned'."""
    word = re.sub(r"'s?$", "", word)
    for ending in ("ing", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    return word.removesuffix("e") if len(word) > 3 else word


def rigid_terms(sentence: str) -> set[str]:
    """Terms that must be in the evidence to the letter: numbers, names (a capital inside the sentence), code words."""
    text = _one_form(sentence)
    rigid: set[str] = set()
    for match in _TERM.finditer(text):
        word = match[0]
        inside = bool(re.search(r"[^\s\"'“‘(\[]", text[: match.start()]))
        if word[0].isdigit() or "_" in word or (inside and word[:1].isupper()) or word[1:] != word[1:].lower():
            rigid.add(re.sub(r"'s?$", "", word.casefold()))
    return rigid - _STOP_WORDS


def agrees(stretch: str, needed: set[str], *, negated: bool) -> bool:
    """Whether a stretch affirms or denies as the sentence does, by the clause that shares most with the sentence.

    A denial needs only some clause with a shared word that denies too: its 'not' often stands in another clause than
    the name it is about.
    """
    clauses = [clause for clause in re.split(r"[,;:—()]|\bbut\b", stretch) if needed & stems(clause)]
    if negated:
        return any(is_negated(terms(clause)) for clause in clauses)
    nearest = max(clauses, key=lambda clause: len(needed & stems(clause)), default="")
    return not is_negated(terms(nearest))


def is_negated(found: Iterable[str]) -> bool:
    """Whether terms deny something."""
    return any(term in _NEGATIONS or term.endswith("n't") for term in found)


def _one_form(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("’", "'")


def _normalise(vectors: Iterable[Iterable[float]] | Vectors) -> Vectors:
    """Rows of length 1; a zero row stays zero."""
    rows = np.asarray(vectors, dtype=np.float32)
    unit: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
