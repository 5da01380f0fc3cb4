"""Where sentences end, in Latin, East Asian, Arabic, Indic and other scripts.

In scripts with blanks between words a full stop counts only before a blank, not after an abbreviation or an initial,
not in a decimal, and not before a small letter. East Asian and other full stops of their own end a sentence wherever
they stand. A blank line, a list item and a heading end one too; a single line break doesn't, since many files wrap
their lines.
"""

import re

_CLOSERS = "\"'”’»)\\]}›」』）】》〉〕］｝"
_OWN_STOP = re.compile(rf"[。！？；｡…][{_CLOSERS}]*$")
_OTHER_STOP = re.compile(rf"[։؟۔܀।॥።፧፨။།༎។៕᠃᭞᭟][{_CLOSERS}]*$")
_LATIN_STOP = re.compile(rf"[.!?…]+[{_CLOSERS}]*$")
_ONE_STOP = re.compile(rf"(?<![.!?…])\.[{_CLOSERS}]*$")
_ITEM = re.compile(r"(?:[-*+•‣◦–—]|\d{1,3}[.)]|\(?[a-z]\))\s")
_ITEM_LOOK = 8
_ABBREVIATIONS = (
    "mr mrs ms mx dr prof rev hon st sr jr gen col maj capt lt sgt gov sen rep pres messrs mme mlle hr fr dipl ing fig "
    "figs eq eqs sec ch chap no nos vol vols p pp ed eds al ca cf viz vs v e.g i.e z.b d.h u.a bzw vgl nr abs art ref "
    "refs approx dept est ext tab"
)
_NEVER_END = frozenset(_ABBREVIATIONS.split())
"""Abbreviations that something must follow, lower case and without their last full stop."""
_LAST_DAY = 31
"""Of a month: greater numbers with a full stop are hardly ever ordinals within a sentence."""
_LETTERS = re.compile(r"(?:[^\W\d_]\.)+$")


def ends_sentence(text: str, start: int, end: int, following: int) -> bool:
    """Whether a sentence ends after the atom `text[start:end]`, when the next atom begins at `following`."""
    gap = text[end:following]
    if "\n" in gap and (gap.count("\n") > 1 or _ITEM.match(text[following : following + _ITEM_LOOK])):
        return True
    atom = text[start:end]
    if _OTHER_STOP.search(atom) or (_OWN_STOP.search(atom) and not (atom.endswith("…") and gap)):
        return True
    if not gap or not _LATIN_STOP.search(atom):
        return False
    after = text[following : following + 4].lstrip("\"'“‘«([{¿¡")
    if after[:1].islower():
        return False
    return not (_ONE_STOP.search(atom) and (_is_abbreviation(atom) or _is_ordinal(text, start, end, gap)))


def _is_abbreviation(atom: str) -> bool:
    word = _bare(atom)
    if word.rstrip(".").lower() in _NEVER_END:
        return True
    if _LETTERS.match(word):  # an initial; 'U.S.' or 'p.m.' may end a sentence and then a capital follows
        return len(word) == 2 and word[0].isupper() and word[0] != "I"
    return False


def _is_ordinal(text: str, start: int, end: int, gap: str) -> bool:
    """'1. Install' where a line begins, '3. Oktober' within one; not 'grade 68. The', nor '12.' where a line ends."""
    number = _bare(text[start:end]).rstrip(".")
    if not number.isdecimal() or len(number) > 2:
        return False
    before = text[max(0, start - _ITEM_LOOK) : start].rstrip(" \t")
    begins_line = not before or before.endswith("\n")
    return begins_line or (int(number) <= _LAST_DAY and "\n" not in gap)


def _bare(atom: str) -> str:
    return atom.lstrip("\"'“‘«([{").rstrip("\"'”’»)]}")
