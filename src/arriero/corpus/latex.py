r"""From a paper's LaTeX to the text that LLaMA took (section 2.1): comments go first, then macros are written out, then
everything before the first section, and the bibliography or appendix and all after it.

Comments go first, for `% \section{Old}` is no section and `% \bibliography{x}` no end. What stands verbatim is kept.
Formulas and environments stay LaTeX: they are what a model shall learn.
"""

import re
from collections.abc import Iterator

from arriero.corpus.document import Document, Each
from arriero.corpus.macros import Spans, expand, take_definitions

_VERBATIM = "verbatim|Verbatim|lstlisting|minted|alltt"
_LONGEST_PHRASE = 1_000
_TOKEN = re.compile(
    rf"\\begin\{{((?:{_VERBATIM})\*?|comment)\}}"  # 1: an environment that is not read
    r"|\\(?:verb\*?|lstinline(?:\[[^]\n]{0,200}\])?)([^a-zA-Z\s*\[{])"  # 2: the mark around a verbatim phrase
    r"|\\(?:url|nolinkurl|path|href)\{[^{}\n]{0,2000}\}"  # a percent sign in an address is none of TeX's
    r"|\\[\\%]"
    r"|^[ \t]*+%[^\n]*(?:\n|\Z)"  # a line that is all comment goes with its end
    r"|%[^\n]*(?:\n[ \t]*+(?!\n))?",  # one behind a text takes the line's end along, but leaves an empty line
    re.MULTILINE,
)
_CONDITIONS = (
    "if ifx ifnum ifdim ifodd ifcat ifcase ifvoid ifhbox ifvbox ifhmode ifvmode ifmmode ifinner ifeof iftrue iffalse "
    "ifdefined ifcsname iffontchar ifpdf ifxetex ifluatex ifPDFTeX ifXeTeX ifLuaTeX"
)
r"""TeX's own and the usual ones: not every `\if…` ends in `\fi`; `\ifthenelse` does not, and `\iff` is a sign."""
_IF = re.compile(r"\\(newif\s*+\\)?(if[a-zA-Z@]*|else|fi)(?![a-zA-Z@])")
_HEADING = r"\\(?:part|chapter|section|subsection|subsubsection|paragraph|subparagraph)\*?\s*+(?=[\[{])"
_FIRST = re.compile(_HEADING)
_HEADINGS = re.compile(_HEADING + r"(?:\[[^]\n]*\]\s*+)?\{[^{}\n]*\}")
_END = re.compile(
    r"\\(?:appendix(?![a-zA-Z])|begin\{(?:appendix|appendices|thebibliography|references)\}|bibliography\s*+\{"
    r"|printbibliography|end\{document\})"
    r"|" + _HEADING + r"\{\s*+(?:References|Bibliography)\s*\}",
    re.IGNORECASE,
)
_STYLE = re.compile(r"\\bibliographystyle\s*+\{[^{}\n]*\}")
_EMPTY_LINES = re.compile(r"\n{3,}")


def clean_latex() -> Each:
    """The step."""
    return Each("latex", _clean)


def _clean(document: Document) -> Document:
    text = drop_false_branches(drop_comments(document.text))
    text, macros = take_definitions(text, verbatim_spans(text))
    _, marked, body = text.partition(r"\begin{document}")
    body = body if marked else text
    body, left = expand(body, macros, verbatim_spans(body))
    spans = verbatim_spans(body)
    first = next(_outside(_FIRST, body, spans), None)
    if first is None:
        return document.drop("latex: no section")
    end = next((found for found in _outside(_END, body, spans) if found.start() > first.start()), None)
    body = _STYLE.sub("", body[first.start() : end.start() if end else None])
    body = _EMPTY_LINES.sub("\n\n", "\n".join(line.rstrip() for line in body.split("\n"))).strip()
    if not _HEADINGS.sub("", body).strip():
        return document.drop("latex: nothing after the first section")
    noted = {"macros": len(macros), "macros_left": left}
    return document.with_text(body).with_metadata(**{key: value for key, value in noted.items() if value})


def drop_comments(text: str) -> str:
    r"""The text without comments; `\%` and what stands verbatim stay."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(piece for piece, kind in _pieces(text) if kind != "comment")


def verbatim_spans(text: str) -> list[tuple[int, int]]:
    """Where verbatim text begins and ends, in order."""
    spans, at = [], 0
    for piece, kind in _pieces(text):
        if kind == "verbatim":
            spans.append((at, at + len(piece)))
        at += len(piece)
    return spans


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """The text in order, in pieces that are "text", "verbatim" or "comment". Linear: each end is sought once."""
    at = start = 0
    endless: set[str] = set()
    while found := _TOKEN.search(text, at):
        at = found.end()
        if environment := found[1]:
            closing = rf"\end{{{environment}}}"
            end = -1 if closing in endless else text.find(closing, at)
            if end < 0:
                endless.add(closing)
                continue
        elif closing := found[2]:
            end = text.find(closing, at, at + _LONGEST_PHRASE)
            if end < 0 or "\n" in text[at:end]:
                continue
        elif found[0][0] == "\\":
            continue
        else:
            end, closing = at, ""
        at = end + len(closing)
        yield text[start : found.start()], "text"
        yield text[found.start() : at], "verbatim" if closing and environment != "comment" else "comment"
        start = at
    yield text[start:], "text"


def _outside(pattern: re.Pattern[str], text: str, verbatim: Spans) -> Iterator[re.Match[str]]:
    """What a pattern finds in a text, but for what stands verbatim."""
    spans = iter([*verbatim, (len(text), len(text) + 1)])
    begin, end = next(spans)
    for found in pattern.finditer(text):
        while end <= found.start():
            begin, end = next(spans)
        if found.start() < begin:
            yield found


def drop_false_branches(text: str) -> str:
    r"""The text without what `\iffalse … \else` or `\iffalse … \fi` keep from being set; other conditions stay."""
    if r"\iffalse" not in text:
        return text
    words = list(_outside(_IF, text, verbatim_spans(text)))
    conditions = {*_CONDITIONS.split(), *(found[2] for found in words if found[1])}
    kept, start = [], 0
    opened: list[str] = []  # "false", "shown" (behind its `\else`), or "other" (any condition within those)
    hidden = False
    for found in words:
        word = found[2]
        if found[1]:
            continue
        if word == "iffalse" and not hidden:
            kept.append(text[start : found.start()])
            start, hidden = found.start(), True
            opened.append("false")
        elif opened and (word in conditions or word.startswith("if@")):
            opened.append("other")
        elif opened and word == "else" and opened[-1] == "false":
            start, hidden = found.end(), False
            opened[-1] = "shown"
        elif opened and word == "fi":
            last = opened.pop()
            if last == "shown":
                kept.append(text[start : found.start()])
            if last != "other":
                start, hidden = found.end(), False
    return "".join(kept) + text[start:]
