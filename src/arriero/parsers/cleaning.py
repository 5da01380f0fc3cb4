"""Text as every document holds it: one kind of newline, no control characters, composed accents.

NFC composes what the eye sees as one letter and changes nothing else; NFKC would turn ² into 2 and ﬁ into fi, and a
quote from the document would no longer be in the document. Invisible characters that carry meaning stay (joiners in
Persian and emoji, direction marks, U+200B between Thai words); those that only hide text go.
"""

import re
import sys
import unicodedata
from functools import cache

MAX_MARKS = 30
"""Combining marks kept in a row: UAX 15's Stream-Safe limit. Sorting a longer run takes quadratic time."""

_NEWLINES = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# Cc but tab and newline; soft hyphen; byte order mark; surrogates; noncharacters; interlinear and tag characters.
_UNWANTED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\ufdd0-\ufdef\U000e0001]"
    "|(\U0001f3f4[\U000e0020-\U000e007e]{1,6}\U000e007f)|[\U000e0000-\U000e007f]"
)
_TRAILING = re.compile(r"[ \t]++(?=\n|\Z)")
_BLANK_LINES = re.compile(r"\n{3,}")


def clean(text: str) -> str:
    """The text in the form in which documents keep it; idempotent.

    Lines lose trailing blanks, two or more blank lines become one, and the ends are stripped of blank lines (the first
    line keeps its indentation). Tag characters (U+E0000 …), with which text can be hidden from the reader but not from
    a model, stay only in flag emoji.
    """
    text = _NEWLINES.sub("\n", text)
    text = _UNWANTED.sub(lambda match: match[1] or "", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", _long_mark_runs().sub(lambda match: match[0][:MAX_MARKS], text))
    text = _TRAILING.sub("", text)
    return _BLANK_LINES.sub("\n\n", text).strip("\n")


@cache
def _long_mark_runs() -> re.Pattern[str]:
    """Runs of more than `MAX_MARKS` characters whose canonical combining class is not 0."""
    marks = [code for code in range(0x300, min(0x20000, sys.maxunicode)) if unicodedata.combining(chr(code))]
    ranges: list[list[int]] = []
    for code in marks:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    members = "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
    return re.compile(f"[{members}]{{{MAX_MARKS + 1},}}+")
