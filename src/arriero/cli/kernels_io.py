"""`arriero kernels io`: what attention reads from and writes to a GPU's main memory, counted."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from arriero.cli.output import console, note, print_json, printable
from arriero.common.errors import MissingExtraError
from arriero.common.files import atomic_file

if TYPE_CHECKING:
    from arriero.kernels.io_count import Row

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class IoConfig:
    """What to count for."""

    tokens: int = 1024
    """Tokens of the sequence, the paper's N."""
    head_dim: int = 64
    """Numbers of each head, the paper's d."""
    sram_kib: int = 100
    """KiB of on-chip memory that the tiles share, the paper's M."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """What an element is stored as."""
    output: Path | None = None
    """A folder for io.png and io.json."""
    json: bool = False
    """Print JSON for scripts."""


def count_io(config: IoConfig) -> int:
    """Count what one head of attention reads from and writes to a GPU's main memory, as FlashAttention's paper does.

    The counts come from a walk over the blocks of each algorithm: nothing is run, and no GPU is needed. Tiled attention
    is counted in the paper's order (keys outside), in that of our kernels, and block-sparse with a butterfly pattern.

    Examples:
      arriero kernels io
      arriero kernels io --tokens 8192 --head-dim 128 --sram-kib 192 --output io
    """
    from arriero.kernels.io_count import count_all

    sram = config.sram_kib * 1024 // BYTES[config.dtype]
    facts = _facts(config, sram, count_all(config.tokens, config.head_dim, sram))
    if config.json:
        print_json(facts)
    else:
        console().print(_table(facts["rows"]), markup=False)
        print(
            f"Counts, not measurements: one head, N = {config.tokens:,}, d = {config.head_dim:,}, M = {sram:,} "
            f"elements ({config.sram_kib:,} KiB of {config.dtype}); caches, masks and dropout are left out."
        )
    if config.output:
        _write(config.output, facts)
    return 0


def _facts(config: IoConfig, sram: int, rows: Sequence["Row"]) -> dict[str, Any]:
    standard = {row.passes: row.traffic.total for row in reversed(rows)}  # the first row of each pass
    return {
        "counted": "elements moved between HBM and SRAM by one head; nothing was measured",
        "tokens": config.tokens,
        "head_dim": config.head_dim,
        "sram_elements": sram,
        "dtype": config.dtype,
        "rows": [
            {
                "pass": row.passes,
                "algorithm": row.algorithm,
                "reads": row.traffic.reads,
                "writes": row.traffic.writes,
                "total": row.traffic.total,
                "bytes": row.traffic.total * BYTES[config.dtype],
                "of_standard": row.traffic.total / standard[row.passes],
            }
            for row in rows
        ],
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("pass", "algorithm", "reads", "writes", "total", "MiB", "of standard"):
        table.add_column(column, justify="left" if column in ("pass", "algorithm") else "right")
    for row in rows:
        counts = (f"{row[name]:,}" for name in ("reads", "writes", "total"))
        mebi, share = f"{row['bytes'] / 2**20:,.2f}", f"{row['of_standard']:.2f}×"
        table.add_row(row["pass"], row["algorithm"], *counts, mebi, share)
    return table


def _write(folder: Path, facts: dict[str, Any]) -> None:
    """The counts as JSON, and drawn if matplotlib is there."""
    from arriero.kernels.plots import plot_io_count

    with atomic_file(folder / "io.json") as aside:
        aside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    try:
        size = (facts["tokens"], facts["head_dim"], facts["sram_elements"])
        plot_io_count(*size, bytes_each=BYTES[facts["dtype"]], target=folder / "io.png")
    except MissingExtraError as error:
        note(f"no io.png: {error}")
    else:
        note(f"wrote io.json and io.png to {printable(str(folder))}")
