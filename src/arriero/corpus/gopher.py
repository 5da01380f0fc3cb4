"""Gopher's rules of quality and repetition (Rae et al. 2021, arXiv 2112.11446, appendix A.1.1, Table A1)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from arriero.corpus.document import Document, Each
from arriero.tokenizer.measure import split_words

WORDS = (50, 100_000)
MEAN_LENGTH = (3, 10)
"""Characters of a word."""
MAX_SYMBOLS, MAX_BULLETS, MAX_ELLIPSES = 0.1, 0.9, 0.3
"""Symbols a word; shares of lines."""
MIN_ALPHABETIC = 0.8
"""Share of words with a letter."""
STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
MIN_STOP_WORDS = 2

MAX_DUPLICATE_LINES, MAX_DUPLICATE_PARAGRAPHS = 0.30, 0.30
MAX_DUPLICATE_LINE_CHARACTERS, MAX_DUPLICATE_PARAGRAPH_CHARACTERS = 0.20, 0.20
MAX_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
"""By n: share of the characters in the most frequent n-gram."""
MAX_DUPLICATE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""By n: share of the characters in n-grams that occur more than once."""


def gopher_rules() -> Each:
    """The step: quality first, then repetition, each rule with a reason of its own."""

    def judge(document: Document) -> Document:
        words, lines = split_words(document.text), document.text.split("\n")
        reason = quality(words, lines) or repetition(words, lines)
        return document.drop(f"gopher: {reason}") if reason else document

    return Each("gopher", judge)


def quality(words: Sequence[str], lines: Sequence[str]) -> str | None:
    """The first rule of quality that is broken.

    The mean length is not asked of texts that are mostly of a script whose words are single characters.
    """
    n = len(words)
    if n < WORDS[0]:
        return "fewer than 50 words"
    if n > WORDS[1]:
        return "more than 100,000 words"
    single = sum(1 for word in words if len(word) == 1 and not word.isascii())
    mean = sum(map(len, words)) / n
    if 2 * single < n and not MEAN_LENGTH[0] <= mean <= MEAN_LENGTH[1]:
        return "mean length of words"
    text = "\n".join(lines)
    if max(text.count("#"), text.count("...") + text.count("…")) > MAX_SYMBOLS * n:
        return "symbols"
    stripped = [line.strip() for line in lines if line.strip()]
    if sum(line.startswith(("•", "-", "*", "●")) for line in stripped) > MAX_BULLETS * len(stripped):
        return "bullets"
    if sum(line.endswith(("...", "…")) for line in stripped) > MAX_ELLIPSES * len(stripped):
        return "ellipses"
    if sum(word.isalpha() or any(map(str.isalpha, word)) for word in words) < MIN_ALPHABETIC * n:
        return "words without letters"
    if len(STOP_WORDS.intersection(map(str.lower, words))) < MIN_STOP_WORDS:
        return "stop words"
    return None


def repetition(words: Sequence[str], lines: Sequence[str]) -> str | None:
    """The first rule of repetition that is broken."""
    text = "\n".join(lines)
    for what, parts, most, most_characters in (
        ("lines", [line for line in lines if line.strip()], MAX_DUPLICATE_LINES, MAX_DUPLICATE_LINE_CHARACTERS),
        (
            "paragraphs",
            [paragraph for paragraph in text.split("\n\n") if paragraph.strip()],
            MAX_DUPLICATE_PARAGRAPHS,
            MAX_DUPLICATE_PARAGRAPH_CHARACTERS,
        ),
    ):
        counts = Counter(parts)
        if len(parts) - len(counts) > most * len(parts):
            return f"repeated {what}"
        repeated = sum(len(part) * (count - 1) for part, count in counts.items())
        if repeated > most_characters * len(text):
            return f"characters in repeated {what}"
    characters = sum(map(len, words))
    starts: Iterable[int] = range(len(words))
    for n in range(min(MAX_TOP), max(MAX_DUPLICATE) + 1):
        starts = grams = repeated_grams(words, n, starts)
        if n in MAX_TOP and top_characters(grams) > MAX_TOP[n] * characters:
            return f"the most frequent {n}-gram"
        if n in MAX_DUPLICATE and duplicate_characters(words, n, grams) > MAX_DUPLICATE[n] * characters:
            return f"repeated {n}-grams"
    return None


def repeated_grams(words: Sequence[str], n: int, starts: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """The n-grams that occur twice at least, by their starts, in order.

    Args:
        words: the text's.
        n: at least 1.
        starts: where to look, in order. Where a shorter gram is not repeated, no longer one is.
    """
    last = len(words) - n
    grams = {start: tuple(words[start : start + n]) for start in starts if start <= last}
    counts = Counter(grams.values())
    return {start: gram for start, gram in grams.items() if counts[gram] > 1}


def top_characters(grams: Mapping[int, tuple[str, ...]]) -> int:
    """Characters in the occurrences of the most frequent n-gram; the longest of equals."""
    counts = Counter(grams.values())
    most = max(counts.values(), default=0)
    return max((most * sum(map(len, gram)) for gram, count in counts.items() if count == most), default=0)


def duplicate_characters(words: Sequence[str], n: int, grams: Mapping[int, tuple[str, ...]]) -> int:
    """Characters of the words that lie in an n-gram seen before, none counted twice."""
    seen: set[tuple[str, ...]] = set()
    total, covered = 0, 0  # words before `covered` are counted
    for start, gram in grams.items():
        if gram in seen:
            total += sum(map(len, words[max(start, covered) : start + n]))
            covered = start + n
        seen.add(gram)
    return total
