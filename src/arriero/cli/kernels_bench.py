"""`arriero kernels bench`: time and memory of attention on this machine."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from arriero.cli.output import console, note, print_json, printable
from arriero.common.errors import MissingExtraError
from arriero.common.files import atomic_file

if TYPE_CHECKING:
    from arriero.kernels.bench import Row


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What to measure, and where."""

    lengths: tuple[int, ...] = (512, 1024, 2048)
    """Tokens of each sequence."""
    cases: tuple[Literal["dense", "gqa", "packed"], ...] = ("dense", "gqa", "packed")
    """dense; gqa, heads that share KV heads; packed, 8 documents of unequal length a row. All are causal."""
    head_dim: int = 64
    """Numbers of each head."""
    heads: int = 9
    """Query heads."""
    kv_heads: int = 3
    """KV heads of the case gqa; the other cases have as many as query heads."""
    batch: int = 1
    """Rows."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is bfloat16 on CUDA, and float32 elsewhere."""
    device: str = "auto"
    """auto, cpu, or cuda."""
    repeats: int = 5
    """Measurements of each, after a warm-up; the median counts."""
    output: Path | None = None
    """A folder for bench.png and bench.json."""
    json: bool = False
    """Print JSON for scripts."""


def bench(config: BenchConfig) -> int:
    """Measure time and peak memory of every attention implementation, forward and backward, beside PyTorch's own.

    TFLOP/s count 2·N²·D operations a head forward (half of 4·N²·D, for the causal mask; per document when packed), and
    3.5 times as many forward and backward. The peer is PyTorch's attention: its FlashAttention-2 on CUDA, and where
    documents are packed, its attention with a dense mask.

    Examples:
      arriero kernels bench --lengths 1024 --lengths 4096 --cases dense --output bench
      arriero kernels bench --device cuda --lengths 4096 --lengths 16384 --head-dim 128 --repeats 20
    """
    from arriero.common.device import pick_device, pick_dtype
    from arriero.common.machine import machine_facts, machine_line
    from arriero.common.progress import progress
    from arriero.kernels.bench import LARGEST_SCORES, Settings, bench_kernels

    device = pick_device(config.device)
    settings = Settings(
        cases=tuple(dict.fromkeys(config.cases)),
        lengths=tuple(sorted(set(config.lengths))),
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        batch=config.batch,
        dtype=pick_dtype(config.dtype, device),
        device=device,
        repeats=config.repeats,
    )
    if config.output:
        config.output.mkdir(parents=True, exist_ok=True)  # told now, not after the measurements, if it can't be
    with progress("Measuring", total=len(settings.points), unit="points") as tell:
        rows = list(bench_kernels(settings, tell))
    shape = {name: getattr(settings, name) for name in ("heads", "kv_heads", "head_dim", "batch", "repeats")}
    facts = {
        "machine": machine_facts(device),
        **shape,
        "dtype": rows[0].dtype,
        "without_reference": settings.without_reference,
        "rows": [asdict(row) for row in rows],
    }
    caption = (
        f"{machine_line(device)}; {rows[0].dtype}, batch {config.batch}, {config.heads} heads"
        f"{f' on {config.kv_heads} KV heads if grouped' if 'gqa' in settings.cases else ''}, head dim {config.head_dim}"
    )
    if config.json:
        print_json(facts)
    else:
        print(printable(caption))
        console().print(_table(rows), markup=False)
        if settings.without_reference:
            lengths = ", ".join(f"{tokens:,}" for tokens in settings.without_reference)
            print(f"The reference is left out at N = {lengths}: more than {LARGEST_SCORES:,} scores at once.")
    if config.output:
        _write(config.output, facts, rows, caption)
    return 0


def _table(rows: Sequence["Row"]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("case", "pass", "N", "implementation", "ms", "TFLOP/s", "peak MiB", "speed/peer", "memory/peer"):
        table.add_column(column, justify="left" if column in ("case", "pass", "implementation") else "right")
    for row in rows:
        table.add_row(
            row.case,
            row.passes,
            str(row.tokens),
            row.implementation,
            f"{row.milliseconds:.2f}",
            f"{row.tflops:.3f}",
            f"{row.peak_bytes / 2**20:.1f}",
            "peer" if row.implementation == row.peer else f"{row.speed:.2f}×",
            "peer" if row.implementation == row.peer else f"{row.memory:.2f}×",
        )
    return table


def _write(folder: Path, facts: dict[str, Any], rows: Sequence["Row"], caption: str) -> None:
    """The figures as JSON, and drawn if matplotlib is there."""
    from arriero.kernels.bench_plot import plot_bench

    with atomic_file(folder / "bench.json") as aside:
        aside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    try:
        plot_bench(rows, folder / "bench.png", caption)
    except MissingExtraError as error:
        note(f"no bench.png: {error}")
    else:
        note(f"wrote bench.json and bench.png to {printable(str(folder))}")
