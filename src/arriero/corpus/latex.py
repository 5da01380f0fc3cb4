"""From a paper's LaTeX to the text that LLaMA took (section 2.1): comments go first, then macros are written out, then
everything before the first section, and the bibliography and all after it.

Comments go first, for `% \\section{Old}` is no section and `% \\bibliography{x}` no end. What stands verbatim is kept.
Formulas and environments stay LaTeX: they are what a model shall learn.
"""

import re
from collections.abc import Iterator

from arriero.corpus.document import Document, Each
from arriero.corpus.macros import expand, take_definitions

_VERBATIM = "verbatim|Verbatim|lstlisting|minted|alltt"
_TOKEN = re.compile(
    rf"\\begin\{{((?:{_VERBATIM})\*?|comment)\}}"  # 1: an environment that is not read
    r"|\\verb\*?([^a-zA-Z\s*])"  # 2: the mark around a verbatim phrase
    r"|\\."
    r"|^[ \t]*%[^\n]*(?:\n|\Z)"  # a line that is all comment goes with its end
    r"|%[^\n]*(?:\n[ \t]*(?!\n))?",  # one behind a text takes the line's end along, but leaves an empty line
    re.MULTILINE | re.DOTALL,
)
_IF = re.compile(r"\\(iffalse|if[a-zA-Z@]*|else|fi)(?![a-zA-Z@])")
_NEW_IF = re.compile(r"\\newif\s*\\if[a-zA-Z@]+")
_HEADING = r"\\(?:part|chapter|section|subsection|subsubsection|paragraph|subparagraph)\*?\s*(?=[\[{])"
_FIRST = re.compile(_HEADING)
_HEADINGS = re.compile(_HEADING + r"(?:\[[^]\n]*\]\s*)?\{[^{}\n]*\}")
_END = re.compile(
    r"\\(?:appendix(?![a-zA-Z])|begin\{(?:appendix|appendices|thebibliography|references)\}|bibliography\s*\{"
    r"|printbibliography|end\{document\})"
    r"|" + _HEADING + r"\{\s*(?:References|Bibliography)\s*\}",
    re.IGNORECASE,
)


def clean_latex() -> Each:
    """The step."""
    return Each("latex", _clean)


def _clean(document: Document) -> Document:
    text, definitions = take_definitions(drop_false_branches(drop_comments(document.text)))
    _, marked, body = text.partition(r"\begin{document}")
    body = body if marked else text
    first = _FIRST.search(body)
    if first is None:
        return document.drop("latex: no section")
    end = _END.search(body, first.start())
    body = body[first.start() : end.start() if end else None]
    body, left = expand(body, definitions, verbatim=verbatim_spans(body))
    body = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", body)).strip()
    if not _HEADINGS.sub("", body).strip():
        return document.drop("latex: nothing after the first section")
    noted = {"macros": len(definitions)} if definitions else {}
    return document.with_text(body).with_metadata(**noted, **({"macros_left": left} if left else {}))


def drop_comments(text: str) -> str:
    r"""The text without comments; `\%` and what stands verbatim stay."""
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
        environment, mark = found[1], found[2]
        if environment or mark:
            closing = rf"\end{{{environment}}}" if environment else mark
            end = -1 if closing in endless else text.find(closing, at, len(text) if environment else at + 1000)
            if end < 0:
                endless.update([closing] if environment else ())
                continue
            at = end + len(closing)
            yield text[start : found.start()], "text"
            yield text[found.start() : at], "comment" if environment == "comment" else "verbatim"
            start = at
        elif found[0][0] != "\\":
            yield text[start : found.start()], "text"
            yield found[0], "comment"
            start = at
    yield text[start:], "text"


def drop_false_branches(text: str) -> str:
    r"""The text without what `\iffalse … \else` or `\iffalse … \fi` keep from being set; other conditions stay."""
    if r"\iffalse" not in text:
        return text
    kept, start = [], 0
    depth = 0  # of conditions within one that is false; 0 outside
    in_else = False
    new = {found.end() for found in _NEW_IF.finditer(text)}
    for found in _IF.finditer(text):
        if found.end() in new:
            continue
        word = found[1]
        if not depth and not in_else:
            if word == "iffalse":
                kept.append(text[start : found.start()])
                depth = 1
        elif in_else:
            if word == "fi":
                kept.append(text[start : found.start()])
                start, in_else = found.end(), False
        elif word == "else" and depth == 1:
            start, depth, in_else = found.end(), 0, True
        elif word == "fi":
            depth -= 1
            start = found.end() if not depth else start
        elif word != "else":
            depth += 1
    return "".join(kept) + ("" if depth else text[start:])
