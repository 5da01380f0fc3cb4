"""Time and memory of attention against the sequence length, drawn from the rows of `bench.py`."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arriero.common.errors import require
from arriero.common.files import atomic_file
from arriero.kernels.bench import PASSES, SDPA_FLASH, SDPA_MASKED, Row

TITLES = {"dense": "Dense", "gqa": "Grouped queries", "packed": "8 packed documents"}
LOOKS = {
    "reference": ("#999999", "s", ":"),
    "tiled": ("#D55E00", "o", "-"),
    "triton": ("#009E73", "D", "-"),
    "sdpa": ("#0072B2", "^", "--"),
    SDPA_FLASH: ("#CC79A7", "v", "--"),
    SDPA_MASKED: ("#56B4E9", "x", "-."),
}
"""Colour, of Okabe and Ito's eight that the colour-blind tell apart; marker; and line, ours unbroken."""
LABELS = {
    "tiled": "ours, by tiles",
    "triton": "ours, Triton",
    "sdpa": "PyTorch SDPA",
    SDPA_FLASH: "PyTorch FlashAttention-2",
    SDPA_MASKED: "PyTorch SDPA, dense mask",
}
MEBI = 2**20


def plot_bench(rows: Sequence[Row], target: Path, caption: str) -> None:
    """Write a figure of one column a case; above forward time, then forward and backward, then the latter's memory.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="plots", purpose="drawing the figure")
    cases = list(dict.fromkeys(row.case for row in rows))
    figure = figures.Figure(figsize=(1.5 + 3.2 * len(cases), 8.6), layout="constrained")
    panels = figure.subplots(3, len(cases), squeeze=False, sharex=True, sharey="row")
    for column, case in enumerate(cases):
        for line, (passes, what) in enumerate([*((passes, "ms") for passes in PASSES), (PASSES[1], "MiB")]):
            chosen = [row for row in rows if row.case == case and row.passes == passes]
            _draw(panels[line][column], chosen, what)
        panels[0][column].set_title(TITLES[case])
        panels[2][column].set_xlabel("tokens N")
    for line, label in enumerate(("forward, ms", "forward + backward, ms", "forward + backward, peak MiB")):
        panels[line][0].set_ylabel(label)
        _scale(panels[line][0].yaxis)
    handles = {
        label: handle for panel in panels.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=min(len(handles), 4), frameon=False
    )
    figure.text(0.01, -0.01, textwrap.fill(caption, 25 + 55 * len(cases)), fontsize=8, color="#555555", va="top")
    with atomic_file(target) as aside:
        figure.savefig(aside, format="png", dpi=150, bbox_inches="tight")


def _draw(panel: Any, rows: list[Row], what: str) -> None:
    for name in dict.fromkeys(row.implementation for row in rows):
        own = sorted((row for row in rows if row.implementation == name), key=lambda row: row.tokens)
        values = [row.milliseconds if what == "ms" else row.peak_bytes / MEBI for row in own]
        colour, marker, line = LOOKS[name]
        panel.plot(
            [row.tokens for row in own],
            values,
            line,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.8,
            label=LABELS.get(name, name),
        )
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    lengths = sorted({row.tokens for row in rows})
    panel.set_xticks(lengths, [_short(tokens) for tokens in lengths])
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _scale(axis: Any) -> None:
    """Plain numbers at powers of ten, and where these are few at 2 and 5 times them."""
    tickers = require("matplotlib.ticker", extra="plots", purpose="drawing the figure")
    low, high = axis.get_view_interval()
    axis.set_major_locator(tickers.LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axis.set_major_formatter(lambda value, place: f"{value:,g}")
    axis.set_minor_formatter(tickers.NullFormatter())


def _short(tokens: int) -> str:
    """4096 as 4k."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)
