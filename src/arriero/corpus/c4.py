"""C4's rules for pages of clean English (Raffel et al. 2020, arXiv 1910.10683, section 2.2), line by line.

The paper and the code that was released with it differ, so both are here by name:

    paper    lines of 3 words at least, pages of 5 sentences
    code     lines of 5 words at least, pages of 3 sentences

Only lines that pass the rules before count for a rule that drops the whole page, as in the released code. A
word of a script without spaces is a character, and a line may end in such a script's full stop, so that the rules do
not take a Chinese page for a single word. The deduplication is in `paragraphs.py`, the language in `language.py`.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arriero.common.errors import FormatError, NotFoundError
from arriero.corpus.document import Document, Each
from arriero.corpus.sentences import count_sentences
from arriero.tokenizer.measure import count_words

Preset = Literal["paper", "code"]
LONGEST_WORD = 1000
_ENDS = (".", "?", "!", '"', "。", "？", "！", "。”", "？”", "！”")
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_POLICY = re.compile(r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
_LONG = re.compile(rf"\S{{{LONGEST_WORD + 1}}}")


@dataclass(frozen=True)
class Limits:
    """Where paper and code differ."""

    min_words: int
    """Of a line."""
    min_sentences: int
    """Of a page."""


PRESETS: dict[Preset, Limits] = {"paper": Limits(3, 5), "code": Limits(5, 3)}


def c4_rules(preset: Preset, bad_words: Collection[str] = ()) -> Each:
    """The step.

    Args:
        preset: as the paper has it, or the code.
        bad_words: pages that hold one of these are dropped; a word counts between what are no letters.
    """
    limits = PRESETS[preset]
    bad = _between_non_letters(bad_words)

    def judge(document: Document) -> Document:
        lines, reason = _lines(document.text, limits)
        if reason:
            return document.drop(f"c4: {reason}")
        text = "\n".join(lines)
        if bad and bad.search(text.lower()):
            return document.drop("c4: a bad word")
        if sum(map(count_sentences, lines)) < limits.min_sentences:
            return document.drop("c4: too few sentences")
        return document.with_text(text)

    return Each(f"c4-{preset}", judge)


def _lines(text: str, limits: Limits) -> tuple[list[str], str | None]:
    """The lines that stay, or why the page goes."""
    lines = []
    for raw in text.splitlines():
        line = raw.strip()
        if len(line) > LONGEST_WORD and _LONG.search(line):
            continue
        if "[" in line:
            line = _CITATION.sub("", line)
        if not line.endswith(_ENDS) or line.endswith("..."):
            continue
        if count_words(line) < limits.min_words:
            continue
        lower = line.lower()
        if "lorem ipsum" in lower:
            return [], "lorem ipsum"
        if "javascript" in lower:
            continue
        if "{" in line:
            return [], "a curly bracket"
        if _POLICY.search(lower):
            continue
        lines.append(line)
    return lines, None


def _between_non_letters(words: Collection[str]) -> re.Pattern[str] | None:
    if not words:
        return None
    listed = "|".join(re.escape(word.lower()) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<![^\W\d_])(?:{listed})(?![^\W\d_])")


def read_words(path: Path) -> frozenset[str]:
    """A list of words, one on each line.

    Raises:
        NotFoundError: there is no such file.
        FormatError: it is no UTF-8 text, or empty.
    """
    if not path.is_file():
        raise NotFoundError(f"no such file: {path}")
    try:
        words = frozenset(line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is no UTF-8 text: convert it, e.g. with iconv") from error
    if not words:
        raise FormatError(f"{path}: expected a word on each line, got none")
    return words
