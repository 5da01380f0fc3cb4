"""Citation markers that a model writes, `[1]` or `[1, 2]`: taken out of its text, also while the text streams.

What the model marks is a claim, not a proof: the markers that a reader sees are set by the evidence alone. `x[1]` and
`f([1, 2])` are code and stay.
"""

import re

_BEFORE = r"(?:(?<![ \t=(\[+*<>])[ \t]+|(?<![\w\])(\[=,`'\" \t]))"
_NUMBERS = r"\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*"
_MARKER = re.compile(rf"{_BEFORE}\[{_NUMBERS}\](?![\w\[(=`'\"])")
_LONGEST = 24
"""Characters after which an open bracket can no longer become a marker."""


def strip_markers(text: str, shown: str) -> str:
    """Take the markers out; one that `shown` (passages and question) holds to the letter is a list, and stays."""
    return _MARKER.sub(lambda match: match[0] if match[0].strip() in shown else "", text)


class MarkerFilter:
    """`strip_markers` of a text that comes in pieces: what may yet become a marker is held back."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._text = ""
        self._given = 0

    def push(self, piece: str) -> str:
        """More of the text; returns what can be shown of it."""
        self._text += piece
        return self._give(len(self._text) - self._open())

    def flush(self) -> str:
        """The text has ended; returns the rest."""
        return self._give(len(self._text))

    def _give(self, until: int) -> str:
        clean = strip_markers(self._text[:until], self._shown)
        new, self._given = clean[self._given :], max(self._given, len(clean))
        return new

    def _open(self) -> int:
        """How many characters at the end are held back: a bracket with the spaces before it, and what may follow it."""
        tail = re.search(rf"[ \t]*\[[^\[\]]{{0,{_LONGEST}}}\]?\Z|[ \t]+\Z", self._text)
        return len(tail[0]) if tail else 0
