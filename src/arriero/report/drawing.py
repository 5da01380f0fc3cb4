"""Curves as SVG that lies in the page: its colours are the page's, so that it suits light and dark.

matplotlib draws with colours that nobody else uses, and those are replaced by the page's variables afterwards. No text
of a run goes into a drawing: names stand in the page's own legend.
"""

import io
import re
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape

from arriero.common.errors import MissingExtraError, require
from arriero.report.curves import Chart, Curve

COLOURS = 8
INK, GRID, MARK = "#0a0b0c", "#0a0b0d", "#0a0b0e"
"""Of text, of what lies behind, and of what calls for attention."""
LINES = [f"#0a0c{number:02x}" for number in range(COLOURS)]
"""Of curves, bars and points, in their order."""
_VARIABLES = {INK: "--soft", GRID: "--grid", MARK: "--alarm"} | {
    colour: f"--c{number}" for number, colour in enumerate(LINES)
}


def missing_extra() -> str | None:
    """What to install before curves can be drawn; None where all is there."""
    try:
        _matplotlib()
    except MissingExtraError as error:
        return str(error)
    return None


def _matplotlib() -> Any:
    return require("matplotlib", extra="plots", purpose="drawing the report's curves")


def draw(chart: Chart, *, wide: bool = False) -> Markup:
    """The chart as an `<svg>` element.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def paint(axes: Any) -> None:
        for step, _ in chart.marks:
            axes.axvline(step, color=MARK, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        for curve in chart.curves:
            _line(axes, curve)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if chart.from_zero:
            axes.set_ylim(bottom=0)

    size = (9.6, 3.6) if wide else (4.7, 2.7)
    return picture(paint, name=chart.title, description=describe(chart), x="step", size=size)


def picture(
    paint: Callable[[Any], None],
    *,
    name: str,
    description: str,
    x: str = "",
    y: str = "",
    size: tuple[float, float] = (4.7, 2.7),
) -> Markup:
    """What `paint` draws on axes in the page's style, as an `<svg>` element; it takes its colours from this module.

    Args:
        name: one of its own for each drawing of a page.
        description: what it shows, in words.
        x: label of the axis.
        y: likewise.
        size: inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 9,
        "axes.formatter.useoffset": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        _style(axes)
        axes.set_xlabel(x, color=INK)
        axes.set_ylabel(y, color=INK)
        paint(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _adopt(text.getvalue(), description)


def describe(chart: Chart) -> str:
    """What the drawing shows, in words."""
    parts = []
    for curve in chart.legend:
        known = [value for value in curve.y if value == value]
        numbers = f"from {known[0]:.4g} to {known[-1]:.4g}, lowest {min(known):.4g}, highest {max(known):.4g}"
        parts.append(f"{curve.label} {numbers}" if len(chart.legend) > 1 else numbers)
    unit = f", in {chart.unit}" if chart.unit else ""
    return f"{chart.title}{unit}, by step: {'; '.join(parts)}"


def _line(axes: Any, curve: Curve) -> None:
    colour = LINES[curve.colour % COLOURS]
    if curve.kind == "faint":
        axes.plot(curve.x, curve.y, color=colour, linewidth=0.7, alpha=0.3, zorder=2)
    elif curve.kind == "dashed":
        size = 3 if len(curve.x) < 60 else 0
        axes.plot(curve.x, curve.y, color=colour, linewidth=1.4, linestyle="--", marker="o", markersize=size, zorder=4)
    else:
        alone = "o" if len(curve.x) == 1 else None
        axes.plot(curve.x, curve.y, color=colour, linewidth=1.6, marker=alone, zorder=3)


def _style(axes: Any) -> None:
    axes.set_facecolor("none")
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_color(INK)
    axes.margins(x=0.01)


def _adopt(svg: str, description: str) -> Markup:
    """Only the element, as wide as its place, with the page's colours and a description."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, _, rest = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    for colour, variable in _VARIABLES.items():
        rest = rest.replace(colour, f"var({variable})")
    return Markup(f'<svg {box[0]} role="img" aria-label="{escape(description)}">{rest}')  # noqa: S704 - matplotlib's
