"""Whether an answer keeps to an instruction, where a program can tell.

    begins:WORD      the first word is WORD
    ends:WORD        the last word is WORD
    contains:WORD    WORD is one of the words
    capitals         there are letters, all of them capital
    words:N          N words at most
    language:NAME    more of the frequent words are this language's than any other's; see `LANGUAGES`

Words are compared without regard to case and to the marks around them, in Unicode's composed form.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable

from arriero.common.errors import ArrieroError, did_you_mean

Check = Callable[[str], bool]
"""Whether an answer keeps to the instruction. An empty one never does."""

_FREQUENT = {
    "English": "the of and to is that it for was with as are this you not have be they by which",
    "French": "le les des est et une dans pour que qui sur pas avec sont il elle du au ce nous vous",
    "German": "der die das und ist ein eine nicht mit zu den von für auf sich sie es im auch wir",
    "Italian": "il di che è per una con non sono del della nel gli questo anche più si lo da ma",
    "Portuguese": "o os uma que não para com é em do da no na mais por são isso como você seu",
    "Spanish": "el los las que y es en una por con para no se del su más como pero está son",
}
LANGUAGES = {name: frozenset(words.split()) for name, words in _FREQUENT.items()}
"""Each language's frequent words: enough to tell these apart in an answer of some sentences, and no more than that."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def read_check(spec: str) -> Check:
    """The program that a text such as `begins:Ahoy` names.

    Raises:
        ArrieroError: it names none, or lacks its word, number or language.
    """
    name, _, value = spec.partition(":")
    value = value.strip()
    if name in _OF_WORDS and len(_words(value)) == 1:
        (wanted,), holds = _words(value), _OF_WORDS[name]
        return lambda answer: holds(_words(answer), wanted)
    if name == "capitals" and not value:
        return lambda answer: answer.upper() == answer and answer.lower() != answer
    if name == "words" and value.isdecimal() and int(value) >= 1:
        return lambda answer: 1 <= len(_words(answer)) <= int(value)
    if name == "language" and value in LANGUAGES:
        return lambda answer: guess_language(answer) == value
    hint = did_you_mean(value, LANGUAGES) if name == "language" else ""
    expected = f"begins:WORD, ends:WORD, contains:WORD, capitals, words:N or language:({'|'.join(LANGUAGES)})"
    raise ArrieroError(f"check: expected {expected}, got '{spec}'{hint}")


def guess_language(text: str) -> str | None:
    """The one of `LANGUAGES` most of whose frequent words a text has; None where it has none, or two have as many."""
    counts = Counter(_words(text))
    found = {name: sum(counts[word] for word in frequent) for name, frequent in LANGUAGES.items()}
    best = max(found.values())
    named = [name for name, count in found.items() if count == best]
    return named[0] if best and len(named) == 1 else None


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(unicodedata.normalize("NFC", text))]


_OF_WORDS: dict[str, Callable[[list[str], str], bool]] = {
    "begins": lambda words, wanted: words[:1] == [wanted],
    "ends": lambda words, wanted: words[-1:] == [wanted],
    "contains": lambda words, wanted: wanted in words,
}
