"""Stop strings: the answer ends before them, and a stream never shows the beginning of one.

A stop string may straddle tokens, so text that could still become one is held back until more text decides. The stop
string that is complete first ends the answer (of several that end at the same character, the one that begins first), so
the result doesn't depend on how the text was cut into tokens.
"""

from collections.abc import Sequence


class StopText:
    """Feed decoded text piece by piece; get back what may be shown."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False
        """Whether a stop string was reached; text pushed after it is dropped."""

    def push(self, text: str) -> str:
        """The text that is now certain to lie before any stop string; '' while undecided."""
        if self.found:
            return ""
        self._held += text
        if (cut := self._cut()) is not None:
            self.found = True
            shown, self._held = self._held[:cut], ""
            return shown
        return self._release(len(self._held) - self._undecided())

    def flush(self) -> str:
        """The text still held, at the end of an answer that reached no stop string."""
        return self._release(len(self._held))

    def _release(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        return shown

    def _cut(self) -> int | None:
        """Where the earliest-ending stop string begins in the held text."""
        found = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins some stop string."""
        held = self._held
        longest = min(len(held), max(map(len, self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            tail = held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
