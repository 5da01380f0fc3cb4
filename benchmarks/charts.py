"""One chart for each area of the benchmarks: ratios to the peers on a logarithmic axis, with their targets.

An SVG that is a file has no page whose colours it could take, so it carries the report's, for light and for dark.
"""

import re
import textwrap
from collections.abc import Mapping
from importlib.resources import files
from math import log
from pathlib import Path
from typing import Any

from catalogue import AREAS, BENCHMARKS
from figures import Figure
from results import Result, ratio

from arriero.common.files import atomic_file
from arriero.report.drawing import INK, LINES, MARK, picture

WIDTH, LINE, HEAD = 9.6, 0.21, 0.75
"""Inches: of a chart, a line of text, the rest."""
WRAP = 58
"""Letters of a line of a figure's name."""
NEUTRAL, MET = LINES[1], LINES[2]
KEY = "ratio to the peer · ● target met · ✖ missed · ◆ no target · ▸ ◂ target · hollow: recorded"
COARSE, FINE = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20), (0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 2.5, 3)
CLOSE = 0.12
"""Logarithm of target ÷ ratio below which the ratio's number stands behind the target."""


def draw_charts(folder: Path, results: Mapping[str, Result]) -> dict[str, str]:
    """A file for each area that has ratios; what each shows in words."""
    drawn = {}
    for area, title in AREAS.items():
        rows = ratios(area, results)
        if not rows:
            continue
        words = "; ".join(f"{figure.what} {ratio(figure.value)}" for figure, _ in rows)
        with atomic_file(folder / f"{area}.svg") as aside:
            aside.write_text(draw(title, words, rows), "utf-8")
        drawn[area] = words
    return drawn


def ratios(area: str, results: Mapping[str, Result]) -> list[tuple[Figure, bool]]:
    """The area's figures that have a peer and count, and whether they were copied from their section."""
    return [
        (figure, run.mode == "recorded")
        for one in BENCHMARKS
        if one.area == area
        for figure, run in results[one.name].counted.values()
        if figure.peer and figure.value > 0
    ]


def draw(title: str, words: str, rows: list[tuple[Figure, bool]]) -> str:
    """The SVG's text."""
    names = [textwrap.wrap(figure.what, WRAP) for figure, _ in rows]
    places, at = [], 0.0
    for name in names:
        at += (1 + max(1, len(name))) / 2
        places.append(at)
        at += (1 + max(1, len(name))) / 2 - 0.4

    def paint(axes: Any) -> None:
        axes.set_xscale("log")
        axes.axvline(1, color=INK, linewidth=1, zorder=2)
        for place, (figure, recorded) in zip(places, rows, strict=True):
            paint_row(axes, place, figure, recorded)
        axes.set_yticks(places, ["\n".join(name) for name in names])
        axes.set_ylim(at + 0.3, -0.1)
        axes.grid(False, axis="y")
        least, most = bounds([figure for figure, _ in rows])
        axes.set_xlim(least, most)
        ticks = [x for x in (FINE if most < 4 * least else COARSE) if least <= x <= most]
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")

    drawing = picture(paint, name=title, description=f"{title}: {words}", x=KEY, size=(WIDTH, HEAD + LINE * at))
    return standalone(drawing)


def paint_row(axes: Any, place: float, figure: Figure, recorded: bool) -> None:
    """A bar from the peer to the ratio, its number, and its target."""
    colour = {True: MET, False: MARK, None: NEUTRAL}[figure.met]
    axes.plot([1, figure.value], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt", zorder=3)
    face = "none" if recorded else colour
    marker = {True: "o", False: "X", None: "D"}[figure.met]
    axes.plot([figure.value], [place], marker, color=colour, markerfacecolor=face, markersize=7, zorder=4)
    for target, points in ((figure.least, ">"), (figure.most, "<")):
        if target:
            axes.plot([target], [place + 0.42], marker=points, color=INK, markersize=4, linestyle="none", zorder=5)
            axes.plot([target] * 2, [place - 0.42, place + 0.42], color=INK, linewidth=1, zorder=5)
    right = figure.value >= 1
    near = [x for x in (figure.least, figure.most) if x and abs(log(x / figure.value)) < CLOSE]
    at = max([figure.value, *near]) if right else min([figure.value, *near])
    axes.annotate(
        ratio(figure.value),
        (at, place),
        xytext=(8 if right else -8, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        color=INK,
    )


def bounds(figures: list[Figure]) -> tuple[float, float]:
    """Ends of the axis: all ratios and targets, 1, and room for the numbers."""
    shown = [1.0, *(x for one in figures for x in (one.value, one.least, one.most) if x)]
    least, most = min([*shown, 0.8]), max([*shown, 1.25])
    room = max(1.15, (most / least) ** 0.12) if log(most / least) > 0 else 1.15
    return least / room, most * room


def standalone(svg: str) -> str:
    """The report's drawing as a file: a name space, a size, and the colours of the report's pages."""
    style = files("arriero.report").joinpath("templates", "report.css").read_text("utf-8")
    light, dark = (re.sub(r"\s+", " ", block) for block in re.findall(r":root\s*{([^}]*)}", style)[:2])
    colours = f":root {{{light}}} @media (prefers-color-scheme: dark) {{ :root {{{dark}}} }}"
    head = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = str(svg).replace("<svg ", f"<svg {head} ", 1)
    return svg.replace(">", f"><style>{colours} text {{ font-family: 'DejaVu Sans', sans-serif; }}</style>", 1) + "\n"
