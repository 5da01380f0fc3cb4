"""A page of figures: each a heading, what it shows, a drawing and its numbers as a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from arriero.report.drawing import COLOURS, missing_extra
from arriero.report.html import render_page

Tile = tuple[str, str, str]
"""A number above all: its name, itself, and what to know of it."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One of the page's."""

    title: str
    text: str = ""
    draw: Callable[[], Markup] | None = None
    """Makes the drawing, by `drawing.picture`; it is left out where matplotlib is not installed."""
    legend: Sequence[str] = field(default_factory=tuple)
    """What the drawing's colours stand for, in the order of `drawing.LINES`."""
    head: Sequence[str] = field(default_factory=tuple)
    """Names of the table's columns."""
    rows: Sequence[Sequence[str]] = field(default_factory=tuple)


def render_figures(title: str, lead: str, tiles: Sequence[Tile], figures: Sequence[Figure]) -> str:
    """The page; whatever texts it is given are text."""
    missing = missing_extra()
    drawn = [
        {
            "title": figure.title,
            "text": figure.text,
            "svg": None if missing or figure.draw is None else figure.draw(),
            "legend": figure.legend,
            "head": figure.head,
            "rows": figure.rows,
        }
        for figure in figures
    ]
    return render_page(
        "figures.html", {}, title=title, lead=lead, tiles=tiles, figures=drawn, missing=missing, colours=COLOURS
    )
