"""Accesses to a GPU's main memory (HBM), as `io_count.py` counts them, drawn over the block size and over the tokens.

The left panel is the forward pass of FlashAttention's figure 2, middle (Dao et al. 2022, arXiv 2205.14135).
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from arriero.common.errors import ArrieroError, require
from arriero.common.files import atomic_file
from arriero.kernels import io_count
from arriero.kernels.io_count import Pass, Row

LOOKS = {
    io_count.STANDARD: ("#000000", "s", "--"),
    io_count.KEYS_OUTSIDE: ("#D55E00", "o", "-"),
    io_count.QUERIES_OUTSIDE: ("#0072B2", "^", "-"),
    io_count.SPARSE: ("#009E73", "D", "-."),
}
"""Colour, of Okabe and Ito's eight that the colour-blind tell apart; marker; line."""
LABELS = {
    io_count.STANDARD: "standard (Algorithms 0, 3)",
    io_count.KEYS_OUTSIDE: "tiled, keys outside (Algorithms 1, 4)",
    io_count.QUERIES_OUTSIDE: "tiled, queries outside (our kernels)",
    io_count.SPARSE: "block-sparse, butterfly (Algorithm 5)",
}
BLOCKS = (16, 32, 64, 128, 256, 512)
"""Tokens, in the left panel."""
LENGTHS = (0.25, 0.5, 1, 2, 4, 8, 16)
"""Times N, in the right panel."""


def plot_io_count(tokens: int, dim: int, sram: int, *, bytes_each: int, target: Path) -> None:
    """Write a figure: over block sizes the forward pass for N tokens; over lengths about N, forward and backward at M.

    Raises:
        ArrieroError: as `count_all`.
        MissingExtraError: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="plots", purpose="drawing the figure")
    figure = figures.Figure(figsize=(10.4, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    chosen = -(-sram // (4 * dim))

    by_block = {chosen: (tokens, dim, sram), **{block: (tokens, dim, 4 * dim * block) for block in BLOCKS}}
    counts = _count_each(by_block)
    _draw(left, counts, ("forward",), bytes_each)
    left.axvline(chosen, color="#888888", linewidth=1, linestyle=":")
    left.text(chosen, 0.97, f"$B_c$ = {chosen} ", transform=left.get_xaxis_transform(), ha="right", color="#555555")
    left.set(xlabel="block size $B_c$, tokens", title=f"Forward, N = {tokens:,}")
    left.set_xticks([block for block in BLOCKS if block in counts])
    left.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    left.set_ylim(bottom=0)
    left.yaxis.set_major_formatter(lambda value, place: f"{value:,g}")

    by_tokens = {length: (length, dim, sram) for length in (int(tokens * times) for times in LENGTHS)}
    counts = _count_each(by_tokens)
    _draw(right, counts, ("forward", "backward"), bytes_each)
    kib = f"{sram * bytes_each / 2**10:,.4g} KiB"
    right.set(xlabel="tokens N", title=f"Forward and backward, M = {kib}, $B_c$ = {chosen}", yscale="log")
    right.set_xticks(list(counts), [f"{length:,}" for length in counts])
    right.yaxis.set_major_formatter(lambda value, place: f"{value:,g}")

    figure.suptitle(f"HBM accesses of attention, counted and not measured: one head, d = {dim}")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    with atomic_file(target) as aside:
        figure.savefig(aside, format="png", dpi=150)


def _count_each(sizes: dict[int, tuple[int, int, int]]) -> dict[int, list[Row]]:
    """The counts for each (N, d, M), without those where M is too large, or the tiles too many for a walk."""
    counts = {}
    for place, size in sorted(sizes.items()):
        with suppress(ArrieroError):
            counts[place] = io_count.count_all(*size)
    return counts


def _draw(panel: Any, counts: dict[int, list[Row]], passes: tuple[Pass, ...], bytes_each: int) -> None:
    for algorithm, (colour, marker, line) in LOOKS.items():
        own = [[row for row in rows if row.algorithm == algorithm and row.passes in passes] for rows in counts.values()]
        mebi = [sum(row.traffic.total for row in rows) * bytes_each / 2**20 for rows in own]
        look = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.8, "label": LABELS[algorithm]}
        panel.plot(list(counts), mebi, line, **look)
    panel.set_xscale("log", base=2)
    panel.minorticks_off()
    panel.set_ylabel("reads and writes, MiB")
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
