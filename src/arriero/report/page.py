"""The page: one HTML file without scripts, which asks nothing of any server.

Whatever a run tells, the names of its sources as much as what its model wrote, is text: Jinja escapes all of it.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from arriero.report import summary
from arriero.report.curves import Chart, charts
from arriero.report.drawing import COLOURS, describe, draw, missing_extra
from arriero.report.html import render_page
from arriero.report.run import Run
from arriero.train.carbon import PUE, TONNES_PER_MWH

TABLE_ROWS = 25
"""Of a table that stands for a drawing."""
MOST_EVENTS = 200
MOST_SAMPLES = 20


def render(runs: Sequence[Run]) -> str:
    """The report of one run, or of several beside each other; without matplotlib, tables stand for the curves."""
    missing = missing_extra()
    drawn = [
        {
            "chart": chart,
            "svg": None if missing else draw(chart, wide=chart.title == "Loss"),
            "words": describe(chart),
            "table": chart_table(chart),
        }
        for chart in charts(runs)
    ]
    return render_page(
        "report.html",
        {"count": count, "short": short, "fixed": fixed, "duration": duration, "size": size, "clock": clock},
        title=" and ".join(run.name for run in runs),
        runs=[_view(run) for run in runs],
        charts=drawn,
        missing=missing,
        colours=COLOURS,
        pue=PUE,
        intensity=TONNES_PER_MWH,
    )


def _view(run: Run) -> dict[str, Any]:
    """What the template shows of a run."""
    kept = [event for event in run.events if event.get("event") != "checkpoint"]
    return {
        "name": run.name,
        "run": run,
        "summary": summary.summarise(run),
        "facts": summary.facts(run),
        "mixture": summary.mixture(run),
        "examples": summary.examples(run),
        "sources": summary.source_losses(run),
        "samples": {prompt: lines[:MOST_SAMPLES] for prompt, lines in summary.samples(run).items()},
        "device_hours": summary.device_hours(run),
        "events": kept[-MOST_EVENTS:],
        "events_left_out": max(0, len(kept) - MOST_EVENTS),
        "checkpoints": len(run.events) - len(kept),
    }


def chart_table(chart: Chart) -> list[list[str]]:
    """The drawing in numbers: a head, and some steps from the first to the last."""
    curves = chart.legend
    steps = sorted(set(chain.from_iterable(curve.x for curve in curves)))
    if len(steps) > TABLE_ROWS:
        steps = [steps[round(row * (len(steps) - 1) / (TABLE_ROWS - 1))] for row in range(TABLE_ROWS)]
    values = [dict(zip(curve.x, curve.y, strict=True)) for curve in curves]
    rows = [[f"{step:,.0f}", *(short(by_step.get(step, math.nan)) for by_step in values)] for step in steps]
    return [["step", *(curve.label for curve in curves)], *rows]


def count(value: Any) -> str:
    """'1,234'; a dash for what isn't known; words as they are."""
    if isinstance(value, str):
        return value
    return "–" if math.isnan(value) else f"{value:,.0f}"


def short(value: float, digits: int = 4) -> str:
    """So many digits; small and great numbers by powers of ten."""
    return "–" if math.isnan(value) else f"{value:.{digits}g}"


def fixed(value: float) -> str:
    """Three decimals, as losses are compared by."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def duration(seconds: float) -> str:
    """'3 h 05 min'."""
    if math.isnan(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    days, rest = divmod(round(seconds / 60), 24 * 60)
    hours, minutes = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def size(value: float) -> str:
    """Bytes in the fitting unit."""
    if math.isnan(value):
        return "–"
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def clock(seconds: Any) -> str:
    """A moment, in UTC; a dash for what is none."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (TypeError, ValueError, OverflowError, OSError):
        return "–"
