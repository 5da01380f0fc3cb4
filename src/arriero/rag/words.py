"""Counting words in any script: the unit in which passages are measured (Lewis et al. 2020, section 3: 100 words).

A passage is cut between *atoms*, and an atom has a weight in quarter words:

- a run of characters between blanks is one word (4 quarters); a longer one, such as a URL or encoded data, counts one
word
  for each 32 characters and may be cut there;
- a Chinese character, kana, or Yi syllable is half a word (2 quarters): these scripts take about 1.6 characters for
what
  is a word in English, and have no blanks;
- a character of Thai, Lao, Khmer, Burmese, Tibetan, Javanese or Balinese is a quarter of a word, vowel signs
included: their
  words have four to five characters and no blanks between them.

Punctuation belongs to the atom that it follows, opening brackets to the one they precede. An atom is never cut within
what the eye sees as one character (combining marks, emoji joined by U+200D, flags), save that such a run ends after
64 characters.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

WORD = 4
"""Weight of one word, in quarters."""
MAX_RUN = 32
"""Characters of a run without blanks that count as one word."""

_HALF_WORD = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3041-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff\uff66-\uff9d\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_QUARTER_WORD = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff"
    "\uaa60-\uaa7f"
)
# Punctuation of East Asian text, brackets that open apart from the rest.
_OPENING = "\u3008\u300a\u300c\u300e\u3010\u3014\u3016\u3018\u301a\u301d\uff08\uff3b\uff5b\uff5f\uff62"
_CLOSING = (
    "\u3001-\u3003\u3009\u300b\u300d\u300f\u3011\u3015\u3017\u3019\u301b\u301c\u301e\u301f\u30fb\uff01-\uff07\uff09-\uff0f"
    "\uff1a-\uff20\uff3d\uff5d\uff5e\uff60\uff61\uff63-\uff65"
)
_SHARED_OPENING = "\u201c\u2018(\\[{<\u00ab"
_SHARED_CLOSING = "\u201d\u2019\u2026\u2014.,;:!?)\\]}>\u00bb"
_BLANK = r"\s\u200b"
_FLAGS = "\U0001f1e6-\U0001f1ff"


class Atom(NamedTuple):
    """The smallest piece of text that a passage can end after."""

    start: int
    """First character's offset."""
    end: int
    """Offset after the last character."""
    weight: int
    """Quarter words."""


def atoms(text: str) -> Iterator[Atom]:
    """The atoms of a text in order; together they hold every character that is no blank. One pass, in linear time."""
    for match in _atom().finditer(text):
        start, end = match.span()
        kind = match.lastgroup
        if kind == "run":
            weight = WORD
        elif kind == "half":
            weight = 2
        elif kind == "quarter":
            weight = min(end - start, WORD)
        else:
            weight = 1
        yield Atom(start, end, weight)


def count_words(text: str) -> int:
    """How many words a text counts, rounded up."""
    return -(-sum(atom.weight for atom in atoms(text)) // WORD)


@cache
def _atom() -> re.Pattern[str]:
    """Possessive throughout: no input makes it look twice at more than one bounded run."""
    unspaced = f"{_HALF_WORD}{_QUARTER_WORD}{_OPENING}{_CLOSING}"
    extension = f"(?:[{_extending()}]|(?<=\u200d)[^{_BLANK}{unspaced}]){{0,64}}+"
    trailing = f"[{_CLOSING}{_SHARED_CLOSING}]{{0,8}}+"
    return re.compile(
        f"(?P<half>[{_OPENING}{_SHARED_OPENING}]{{0,4}}+[{_HALF_WORD}]{extension}{trailing})"
        f"|(?P<quarter>[{_QUARTER_WORD}]{extension}{trailing})"
        f"|(?P<run>(?:[{_FLAGS}]{{2}}|[^{_BLANK}{unspaced}]){{1,{MAX_RUN}}}+{extension}[{_CLOSING}]{{0,8}}+)"
        f"|(?P<rest>[{_OPENING}{_CLOSING}]{{1,8}}+)"
    )


def _extending() -> str:
    """Characters that belong to the one before: combining marks, joiners, skin tones, variation selectors, tags."""
    marks = (chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code)) in ("Mn", "Mc", "Me"))
    others = "\u1160-\u11ff\u200c\u200d\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\U000e0100-\U000e01ef"
    return "".join(marks) + others
