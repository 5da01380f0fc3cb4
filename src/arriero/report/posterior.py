"""Which document each word of an answer leans on: the picture of RAG's figure 2 (Lewis et al., arXiv 2005.11401).

Rows are documents, columns the answer's tokens, and a cell is as dark as p(z | x, y_<=i). On a page, and in a terminal
as blocks.
"""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from arriero.rag.marginal_answer import MarginalAnswer
from arriero.report.drawing import GRID, INK, LINES, picture
from arriero.report.figures import Figure, render_figures

_BLOCKS = " ░▒▓█"
_WIDEST = 12
"""Cells of a token in a terminal; longer ones are cut."""
_HALF = "▯"
"""A token that is part of a character, or none to be seen."""
_NAMED = 24
"""Characters of a document's name beside its row."""


def show_token(piece: str) -> str:
    """A token as it can be shown: blanks as ␣, line ends as ⏎, part of a character as ▯."""
    shown = piece.replace("\n", "⏎").replace("\t", "␣").replace("�", _HALF)
    shown = "".join(letter if letter.isprintable() else _HALF for letter in shown)
    return (("␣" + shown.lstrip(" ")) if shown.startswith(" ") and shown.strip() else shown.replace(" ", "␣")) or "∎"


def posterior_table(answer: MarginalAnswer, pieces: Sequence[str], width: int) -> list[Text]:
    """Lines for a terminal of this width: a strip of tokens at a time, under each its documents' blocks.

    Args:
        answer: what was answered.
        pieces: the text of each token of the best hypothesis.
        width: cells of a line.
    """
    assert answer.rag is not None
    shares = answer.rag.best.token_posterior  # (T, k)
    names = [_name(answer, z) for z in range(len(answer.rag.documents))]
    left = max((cell_len(name) for name in names), default=0) + 2
    tokens = [set_cell_size(show_token(piece), min(_WIDEST, max(2, cell_len(show_token(piece))))) for piece in pieces]
    lines: list[Text] = []
    start = 0
    while start < len(tokens):
        end, used = start, left
        while end < len(tokens) and (end == start or used + cell_len(tokens[end]) + 1 <= width):
            used += cell_len(tokens[end]) + 1
            end += 1
        lines.append(Text(" " * left + " ".join(tokens[start:end]), style="bold"))
        for z, name in enumerate(names):
            cells = [_blocks(shares[i][z], cell_len(tokens[i])) for i in range(start, end)]
            lines.append(Text(set_cell_size(name, left) + " ".join(cells)))
        lines.append(Text(""))
        start = end
    return lines


def render_posterior(answer: MarginalAnswer, pieces: Sequence[str], kind: str) -> str:
    """The page; whatever texts it is given are text."""
    assert answer.rag is not None
    best, prior = answer.rag.best, answer.rag.prior
    names = [_name(answer, z) for z in range(len(prior))]
    tokens = [show_token(piece) for piece in pieces]
    order = sorted(range(len(prior)), key=lambda z: -best.posterior[z])
    figures = [
        Figure(
            title="What each token leans on",
            text="Rows are documents, columns tokens; the darker, the more of p(z | x, y).",
            draw=lambda: _draw_heat(best.token_posterior, names, tokens),
            head=["document", *tokens],
            rows=[[names[z], *(f"{share[z]:.2f}" for share in best.token_posterior)] for z in range(len(prior))],
        ),
        Figure(
            title="Before and after the answer",
            text="p(z|x), from the inner products of question and document; and p(z|x, y), knowing the answer.",
            legend=["p(z|x)", "p(z|x, y)"],
            draw=lambda: _draw_bars([prior[z] for z in order], [best.posterior[z] for z in order], order),
            head=["document", "p(z|x)", "p(z|x, y)", "holds the answer"],
            rows=[
                [names[z], f"{prior[z]:.3f}", f"{best.posterior[z]:.3f}", "yes" if _holds(answer, z) else "no"]
                for z in order
            ],
        ),
        Figure(
            title="What was read",
            head=["document", "text"],
            rows=[[names[z], answer.passages[z].passage.text] for z in order],
        ),
    ]
    tiles = [
        ("answer", answer.text, f"RAG-{kind.capitalize()}, log p(y|x) = {best.logprob:.2f}"),
        ("on passages that say it", f"{answer.faithfulness:.0%}", "of the posterior"),
    ]
    return render_figures(answer.question, "Which documents an answer rests on.", tiles, figures)


def _name(answer: MarginalAnswer, z: int) -> str:
    place = " ".join(answer.passages[z].passage.place.split())
    return f"{z + 1} {place if len(place) <= _NAMED else place[: _NAMED - 1] + '…'}"


def _holds(answer: MarginalAnswer, z: int) -> bool:
    number = answer.passages[z].passage_id
    return any(citation.holds_answer for citation in answer.citations if citation.passage_id == number)


def _blocks(share: float, width: int) -> str:
    return _BLOCKS[min(len(_BLOCKS) - 1, round(share * (len(_BLOCKS) - 1)))] * width


def _draw_heat(shares: Sequence[Sequence[float]], names: Sequence[str], tokens: Sequence[str]) -> Markup:
    """A rectangle a cell, as opaque as its share."""

    def paint(axes: Any) -> None:
        from matplotlib.patches import Rectangle

        for i, row in enumerate(shares):
            for z, share in enumerate(row):
                place = (i - 0.5, z - 0.5)
                axes.add_patch(Rectangle(place, 1, 1, facecolor=LINES[0], alpha=max(share, 0.02), edgecolor=GRID))
        axes.set_xlim(-0.5, len(shares) - 0.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xticks(range(len(tokens)), [str(i + 1) for i in range(len(tokens))])
        axes.set_yticks(range(len(names)), [str(z + 1) for z in range(len(names))])
        axes.grid(False)

    best = [max(range(len(row)), key=row.__getitem__) + 1 for row in shares]
    description = "document with the most weight at each token: " + ", ".join(map(str, best))
    size = (9.6, min(8.0, 1.2 + 0.3 * len(names)))
    return picture(paint, name="posterior", description=description, x="token", y="document", size=size)


def _draw_bars(prior: Sequence[float], posterior: Sequence[float], order: Sequence[int]) -> Markup:
    def paint(axes: Any) -> None:
        places = range(len(prior))
        axes.bar([place - 0.2 for place in places], prior, width=0.38, color=LINES[0])
        axes.bar([place + 0.2 for place in places], posterior, width=0.38, color=LINES[1])
        axes.set_xticks(list(places), [str(z + 1) for z in order], color=INK)

    told = ", ".join(f"{z + 1} {a:.2f} then {b:.2f}" for z, a, b in zip(order, prior, posterior, strict=True))
    return picture(paint, name="bars", description=f"share of each document before and after: {told}", x="document")
