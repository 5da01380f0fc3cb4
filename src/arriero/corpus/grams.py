"""Words in a row as 64-bit numbers: what near duplicates and contamination are found by.

Case, punctuation and symbols do not count. A word is what stands between white space, and in scripts without spaces a
single character. Numbers are the same in every process; two of a billion different grams have the same one with a
chance of about 3 in 100.
"""

import re
import string
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from arriero.corpus.dedup import key_of
from arriero.tokenizer.measure import split_words

Hashes = NDArray[np.uint64]

BLOCK = 1 << 20
"""Characters whose words are held as strings at a time."""
_KNOWN_WORDS = 1 << 18
"""Words whose hashes are remembered; some 30 MB."""
_ASCII = str.maketrans(dict.fromkeys(string.punctuation, " "))
_SPACE = re.compile(r"\s")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


class _WordHashes(dict[str, int]):
    """The hash of each word, computed when it is first asked for."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _KNOWN_WORDS:
            self.clear()
        self[word] = found = key_of(word.encode("utf-8", "surrogatepass"))
        return found


_hash_word = _WordHashes().__getitem__


def hash_words(text: str) -> Hashes:
    """A number for each word of a text."""
    found = [np.zeros(0, np.uint64)]
    for _, block in _blocks(text):
        words = split_words(_plain(block))
        found.append(np.fromiter(map(_hash_word, words), np.uint64, len(words)))
    return np.concatenate(found)


def word_spans(text: str) -> NDArray[np.int64]:
    """Where the words that `hash_words` numbers begin and end in the text, in characters: an array (words, 2)."""
    spans = []
    for start, block in _blocks(text):
        plain, at = _marks().sub(" ", block), 0
        for word in split_words(plain):
            at = plain.index(word, at)
            spans.append((start + at, start + at + len(word)))
            at += len(word)
    return np.array(spans, np.int64).reshape(-1, 2)


def hash_grams(words: Hashes, n: int) -> Hashes:
    """A number for each n words in a row."""
    return next(islice(growing_grams(words), n - 1, None))


def growing_grams(words: Hashes) -> Iterator[Hashes]:
    """The numbers of all single words, of all two words in a row, of all three, and so on without end."""
    grams = words
    for more in range(1, sys.maxsize):
        yield grams
        grams = grams[: max(0, len(words) - more)] * _MULTIPLIER
        grams ^= grams >> _HALF
        grams += words[more:]


def _plain(text: str) -> str:
    """Lower case, with blanks for what is no part of a word."""
    return text.lower().translate(_ASCII) if text.isascii() else _marks().sub(" ", text.lower())


@cache
def _marks() -> re.Pattern[str]:
    """Punctuation and symbols; combining signs are parts of words.

    Beyond the basic plane only pictures count: `re` tries every range there one after the other.
    """
    signs = (re.escape(chr(code)) for code in range(0x10000) if unicodedata.category(chr(code))[0] in "PS")
    return re.compile(f"[{''.join(signs)}\U0001f000-\U0001faff]")


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """A long text in parts that end with a word, and where they begin; what is a block long is cut, word or not."""
    start = 0
    while start < len(text):
        space = _SPACE.search(text, start + BLOCK, start + 2 * BLOCK)
        end = space.start() if space else start + 2 * BLOCK
        yield start, text[start:end]
        start = end
