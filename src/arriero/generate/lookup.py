"""Guesses at what comes next: what followed the last few tokens where they stood before, in prompt or answer.

Prompt lookup (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding): speculative decoding (Leviathan et al. 2023,
arXiv 2211.17192) without a draft model, for answers that quote what they were asked about.
"""

from collections.abc import Sequence

_LONGEST, _SHORTEST = 3, 2  # tokens that must agree; the longer match is tried first


class Lookup:
    """Where each short run of one row's tokens has stood last. A step costs the tokens that are new."""

    def __init__(self, most: int) -> None:
        """Guess at most so many tokens at once; fewer while guesses fail."""
        self.most = most
        self._hopeful = most
        self._seen = 0
        self._next: dict[tuple[int, ...], int] = {}

    def guess(self, tokens: Sequence[int], most: int) -> list[int]:
        """What may follow the row's tokens, which only ever grow: at most `most`, perhaps none."""
        for end in range(max(self._seen, 1), len(tokens)):
            for length in range(_SHORTEST, min(_LONGEST, end) + 1):
                self._next[tuple(tokens[end - length : end])] = end
        self._seen = len(tokens)
        for length in range(min(_LONGEST, len(tokens)), _SHORTEST - 1, -1):
            if (place := self._next.get(tuple(tokens[-length:]))) is not None:
                return list(tokens[place : place + min(most, self._hopeful)])
        return []

    def learn(self, guessed: int, right: int) -> None:
        """So many of the guessed tokens were right: guess twice as many then, half as many otherwise."""
        if guessed:
            self._hopeful = min(2 * self._hopeful, self.most) if right == guessed else max(self._hopeful // 2, 1)
