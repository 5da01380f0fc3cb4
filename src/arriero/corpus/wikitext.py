"""From wikitext to text: links, comments, tables, references and other boilerplate go (LLaMA, section 2.1).

Headings and items stay, a line each; sections of references and links go whole. Templates that only dress a text or a
number keep it.
"""

import re
from collections.abc import Iterator
from html import unescape

from arriero.corpus.document import Document, Each
from arriero.corpus.wiki_markup import NestingError, Scanner
from arriero.corpus.wiki_names import SECTIONS

_MAGIC = re.compile(r"__[^\W\d_]+(?:_[^\W\d_]+)*__")
_QUOTES = re.compile(r"'{2,}")
_DOUBLED = re.compile(r"\[{2,}|\{{2,}")
_VARIANT = re.compile(r"-\{([^{}]{0,1000})\}-")
"""Serbian is written in two alphabets: -{text that stays}-, -{flags|sr-ec:текст; sr-el:tekst}-."""
_VARIANTS_NAME = re.compile(r"\s*sr-[a-z]+\s*:\s*")
_ITEM = re.compile(r"[*#:;]+")
_EMPTY = re.compile(r"[(（][\s,;:]*[)）] ?")
_EMPTY_FIRST = re.compile(r"\(\s*[,;]\s*")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_VERBATIM = re.compile("\x00(\\d+)\x00")
_BLANK_LINES = re.compile(r"\n{3,}")


def clean_wikitext() -> Each:
    """The step: an article's text, its title on the first line."""
    return Each("wikitext", _clean)


def _clean(document: Document) -> Document:
    try:
        text = to_text(document.text)
    except NestingError:
        return document.drop("wikitext: nested without end")
    if not text:
        return document.drop("wikitext: no text but markup")
    title = document.metadata.get("title")
    return document.with_text(f"{title}\n\n{text}" if title else text)


def to_text(wikitext: str) -> str:
    """An article's text: a line for each heading, paragraph and item.

    Raises:
        NestingError: marks lie deeper inside of each other than in any article.
    """
    scanner = Scanner(wikitext)
    text = scanner.scan().replace("&nbsp;", " ")
    text = _MAGIC.sub(lambda found: "" if found[0].isupper() else found[0], text)
    text = _QUOTES.sub(lambda found: _APOSTROPHES.get(len(found[0]), "'" * (len(found[0]) - 5)), text)
    if "-{" in text:
        text = _VARIANT.sub(_first_variant, text)
    text = _BLANK_LINES.sub("\n\n", "\n".join(_lines(text))).strip()
    text = _DOUBLED.sub(lambda found: found[0][0], text)
    text = _ENTITY.sub(_character, text)
    text = _VERBATIM.sub(lambda found: _ENTITY.sub(_character, scanner.verbatim[int(found[1])]), text)
    return text.replace("\x00", "").strip()


_APOSTROPHES = {2: "", 3: "", 4: "'", 5: ""}
"""Runs of them are italic, bold, an apostrophe and bold, both."""


def _character(found: re.Match[str]) -> str:
    return unescape(found[0]).replace("\xa0", " ")


def _first_variant(found: re.Match[str]) -> str:
    flags, _, text = found[1].rpartition("|")
    if {"H", "T"} & set(flags):  # rules for the rest of the page, or for its title
        return ""
    name = _VARIANTS_NAME.match(text)
    return text[name.end() :].partition(";")[0] if name else text


def _lines(text: str) -> Iterator[str]:
    """The lines that stay: no rests of tables, no sections of references."""
    skipped = 0  # level of the heading whose section is left out
    for raw in text.split("\n"):
        line = " ".join(raw.split())
        if line.startswith("=") and line.endswith("=") and (title := line.strip("= ")):
            level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")))
            if skipped and level > skipped:
                continue
            skipped = level if title.casefold() in SECTIONS else 0
            if not skipped:
                yield from ("", title, "")
        elif not skipped:
            yield _line(line)


def _line(line: str) -> str:
    """A line without marks at its beginning, and without what templates left behind."""
    if line.startswith("|") or not any(map(str.isalnum, line)):
        return ""
    if found := _ITEM.match(line):
        rest = line[found.end() :].strip()
        line = f"{'  ' * (len(found[0]) - 1)}- {rest}" if line[found.end() - 1] in "*#" else rest
    if "(" in line or "（" in line:
        line = _EMPTY_FIRST.sub("(", _EMPTY.sub("", line))
    return line
