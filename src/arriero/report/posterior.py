"""Which document each word of an answer leans on: the picture of RAG's figure 2 (Lewis et al., arXiv 2005.11401).

Rows are documents, columns the answer's tokens, and a cell is as dark as p(z | x, y_<=i). In a terminal as blocks, and
on a page, beside what each document weighed before the answer and after it, and what it says. Both need no matplotlib:
a picture whose columns are tokens is a table.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from arriero.rag.evidence import Span
from arriero.rag.marginal_answer import MarginalAnswer, WeightedCitation
from arriero.report.html import render_page

LEAST_SHARE = 0.01
"""Of the posterior: documents with less are told by their number alone."""
_LEAST_OF_TOKEN = 0.1
"""Of one token: a document with as much has a row, however small its share of the whole is."""
LEVELS = ((0.02, "·"), (0.1, "░"), (0.3, "▒"), (0.55, "▓"), (0.8, "█"))
"""From which share on a cell is drawn so."""
_WIDEST = 16
"""Cells of a token in a terminal; longer ones are cut."""
_PAGE_WIDTH = 76
"""Characters of a strip of tokens on a page."""
_HALF = "▯"
"""A token that is part of a character, or shows nothing."""


@dataclass(frozen=True)
class Row:
    """A document's line of the picture, or that of several together."""

    label: str
    shares: tuple[float, ...]
    """p(z | x, y_<=i) of each token."""


def heat_rows(answer: MarginalAnswer) -> list[Row]:
    """The documents that matter to some token, numbered by their posterior, and the others in one row."""
    assert answer.rag is not None
    shares = answer.rag.best.token_posterior  # (T, k)
    rows: list[Row] = []
    others: list[tuple[float, ...]] = []
    for number, citation in enumerate(answer.citations, 1):
        own = tuple(share[citation.rank - 1] for share in shares)
        if citation.posterior >= LEAST_SHARE or max(own, default=0.0) >= _LEAST_OF_TOKEN:
            rows.append(Row(f"[{number}] {' '.join(citation.place.split())}", own))
        else:
            others.append(own)
    if others:
        rows.append(Row(f"{len(others)} more", tuple(map(sum, zip(*others, strict=True)))))
    return rows


def show_token(piece: str) -> str:
    """A token as it can be shown: blanks as ␣, line ends as ⏎, part of a character as ▯, the end of the answer as ∎."""
    if not piece:
        return "∎"
    shown = piece.replace("\n", "⏎").replace("\t", " ").replace("�", _HALF)
    shown = "".join(letter if letter.isprintable() else _HALF for letter in shown)
    shown = shown.replace(" ", "␣")
    return shown if cell_len(shown) else _HALF


def strips(widths: Sequence[int], room: int) -> list[range]:
    """Columns that stand beside each other in `room` cells, one apart; a column that is wider stands alone."""
    found: list[range] = []
    start = used = 0
    for column, width in enumerate(widths):
        if column > start and used + width > room:
            found.append(range(start, column))
            start, used = column, 0
        used += width + 1
    return [*found, range(start, len(widths))] if widths else []


def posterior_lines(answer: MarginalAnswer, width: int) -> list[Text]:
    """Lines for a terminal of this width: a strip of tokens at a time, and under it each document's blocks; what a
    token leans on most is coloured."""
    rows, tokens = heat_rows(answer), [_fit(show_token(piece)) for piece in answer.tokens[0]]
    left = min(max((cell_len(row.label) for row in rows), default=0), max(4, width // 4)) + 1
    lines: list[Text] = []
    for strip in strips([cell_len(token) for token in tokens], width - left):
        lines.append(Text(" " * left + " ".join(tokens[i] for i in strip), style="bold"))
        for row in rows:
            line = Text(row.label)
            line.truncate(left - 1, overflow="ellipsis", pad=True)
            for i in strip:
                strongest = row.shares[i] == max(other.shares[i] for other in rows)
                line.append(" ")
                line.append(_block(row.shares[i]) * cell_len(tokens[i]), style="cyan" if strongest else "")
            lines.append(line)
        lines.append(Text())
    if lines:
        legend = "  ".join(f"{block} {least:.0%}" for least, block in LEVELS)
        lines.append(Text(f"{legend} of p(z | x, y) and more", style="dim"))
    return lines


def _fit(token: str) -> str:
    """In 2 to 16 cells."""
    return set_cell_size(token, min(_WIDEST, max(2, cell_len(token))))


def _block(share: float) -> str:
    return next((block for least, block in reversed(LEVELS) if share >= least), " ")


def render_posterior(answer: MarginalAnswer) -> str:
    """The page; whatever texts it is given are text."""
    assert answer.rag is not None
    rows, tokens = heat_rows(answer), [show_token(piece) for piece in answer.tokens[0]]
    return render_page(
        "posterior.html",
        {"percent": lambda share: f"{share:.0%}"},
        title=answer.question,
        answer=answer,
        rag=answer.rag,
        tokens=tokens,
        rows=rows,
        strips=strips([max(3, cell_len(token)) for token in tokens], _PAGE_WIDTH),
        read=[(citation, mark(answer, citation)) for citation in answer.citations],
    )


def mark(answer: MarginalAnswer, citation: WeightedCitation) -> list[tuple[str, str]]:
    """The text of a passage in pieces, each with what it is: 'answer', 'quote' or ''."""
    text = answer.passages[citation.rank - 1].passage.text
    said = find_answer(text, answer.text)
    ends = sorted({0, len(text), *citation.span, *(place for span in said for place in span)})
    pieces = []
    for start, end in pairwise(ends):
        inside = [span[0] <= start and end <= span[1] for span in said]
        quoted = citation.span[0] <= start and end <= citation.span[1]
        pieces.append(("answer" if any(inside) else "quote" if quoted else "", text[start:end]))
    return pieces


def find_answer(text: str, answer: str) -> list[Span]:
    """Where a text has an answer's words, whatever stands between them; not within a longer word."""
    words = re.findall(r"\w+", answer)
    if not words:
        return []
    alphabetic = r"[^\W\u2e80-\uffff]"  # characters of words that blanks divide: not those of Chinese or Japanese
    run = r"\W+".join(map(re.escape, words))
    pattern = rf"(?<!{alphabetic}){run}(?!{alphabetic})"
    return [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]
