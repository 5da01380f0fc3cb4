"""Our tiled attention on a CPU against PyTorch's, in the same run and in turns; then how its memory grows with length.

First causal attention, dense, with grouped queries and with packed documents, forward and forward + backward, against
`scaled_dot_product_attention` (with a dense mask where documents are packed, and with one call per document too). Then
the peak memory of our forward + backward pass at doubled lengths: linear is a factor of 2, and up to 2.1 is wanted.

    python benchmarks/attention.py [--lengths 512 1024 2048 4096 8192] [--growth-to 32768] [--threads 2] [--json]
"""

import argparse
import json
from dataclasses import asdict
from itertools import groupby, pairwise

import torch
from figures import Figure, as_json, beside, exit_if_missed

from arriero.common.machine import machine_facts, machine_line
from arriero.common.progress import progress
from arriero.kernels.attention import attention
from arriero.kernels.bench import SDPA_MASKED, Row, Settings, bench_kernels
from arriero.kernels.memory import peak_memory

CPU = torch.device("cpu")
HEAD_DIM = 64
GROWTH_FROM, GROWTH_HEADS, GROWTH_TARGET = 1024, 2, 2.1
TITLES = {
    "dense": "Dense, 9 heads",
    "gqa": "Grouped queries, 9 heads on 3 KV heads",
    "packed": "8 packed documents of unequal length, 9 heads",
}

SHORT_TITLES = {"dense": "dense", "gqa": "grouped queries", "packed": "packed documents"}


def main() -> None:
    """Measure, print tables or JSON; exit 1 if memory grows faster than wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lengths = [512, 1024, 2048, 4096, 8192]
    parser.add_argument("--lengths", type=int, nargs="+", default=lengths, help="tokens (default: %(default)s)")
    parser.add_argument(
        "--growth-to", type=int, default=32768, help="longest for memory's growth (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each side (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="1: processor time (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = Settings(lengths=tuple(options.lengths), head_dim=HEAD_DIM, repeats=options.repeats, device=CPU)
    with progress("Measuring", total=len(settings.points), unit="points") as tell:
        rows = list(bench_kernels(settings, tell))
    peaks = measure_growth(options.growth_to)
    factors = [after / before for before, after in pairwise(peaks.values())]
    figures = judge(rows, factors)
    if options.json:
        facts = {"machine": machine_facts(CPU), "rows": [asdict(row) for row in rows]}
        print(json.dumps({**facts, "peak_bytes": peaks, "factors": factors, "targets": as_json(figures)}, indent=2))
    else:
        print(f"{machine_line(CPU)}, float32, head dim {HEAD_DIM}, batch {settings.batch}, causal\n")
        print_tables(rows)
        print_growth(peaks, factors)
    exit_if_missed(figures)


def judge(rows: list[Row], factors: list[float]) -> list[Figure]:
    """Forward and backward at the greatest length, and how memory grows."""
    longest = max(row.tokens for row in rows)
    chosen = [row for row in rows if row.tokens == longest and row.passes == "forward+backward"]
    figures = []
    for case, own in groupby(chosen, key=lambda row: row.case):
        by_name = {row.implementation: row for row in own}
        peers = {"sdpa": ""}
        if case == "packed":
            peers = {SDPA_MASKED: " with a dense mask", "sdpa": " by document"}
        for name, way in peers.items():
            ours, theirs = by_name["tiled"].milliseconds, by_name[name].milliseconds
            what = f"{SHORT_TITLES[case]}, {longest:,} tokens: PyTorch's time{way} ÷ ours"
            figures.append(beside(what, ours, theirs, "PyTorch", "ms", value=theirs / ours))
    growth = Figure(what="memory at twice the length, the greatest factor", value=max(factors), most=GROWTH_TARGET)
    return [*figures, *([growth] if factors else [])]


def measure_growth(longest: int) -> dict[int, int]:
    """Peak bytes of our forward + backward pass by length, each twice the one before."""
    lengths = [GROWTH_FROM << i for i in range((longest // GROWTH_FROM).bit_length())]
    peaks = {}
    with progress("Measuring memory", total=len(lengths), unit="lengths") as tell:
        for tokens in lengths:
            q, k, v, upstream = torch.randn(4, 1, tokens, GROWTH_HEADS, HEAD_DIM)
            leaves = [x.requires_grad_() for x in (q, k, v)]
            peaks[tokens] = peak_memory(
                lambda leaves=leaves, upstream=upstream: torch.autograd.grad(
                    attention(*leaves, implementation="tiled"), leaves, upstream
                ),
                CPU,
            )
            tell(1)
    return peaks


def print_tables(rows: list[Row]) -> None:
    """One Markdown table for each case and pass."""
    for (case, passes), chosen in groupby(rows, key=lambda row: (row.case, row.passes)):
        packed = case == "packed"
        peers = [SDPA_MASKED, "sdpa"] if packed else ["sdpa"]
        names = {"sdpa": "SDPA per document" if packed else "SDPA", SDPA_MASKED: "SDPA, dense mask"}
        print(f"{TITLES[case]}, {passes.replace('+', ' + ')}:\n")
        times = " | ".join(f"{names[peer]} ms | ratio" for peer in peers)
        peaks = " | ".join(f"{names[peer]} MiB" for peer in peers)
        print(f"| N | tiled ms | GFLOP/s | {times} | tiled MiB | {peaks} |")
        print("|---" * (4 + 3 * len(peers)) + "|")
        for tokens, point in groupby(chosen, key=lambda row: row.tokens):
            by_name = {row.implementation: row for row in point}
            tiled, theirs = by_name["tiled"], [by_name[peer] for peer in peers]
            times = " | ".join(f"{x.milliseconds:.1f} | {x.milliseconds / tiled.milliseconds:.2f}" for x in theirs)
            peaks = " | ".join(f"{x.peak_bytes / 2**20:.1f}" for x in [tiled, *theirs])
            print(f"| {tokens:,} | {tiled.milliseconds:.1f} | {tiled.tflops * 1e3:.1f} | {times} | {peaks} |")
        print()


def print_growth(peaks: dict[int, int], factors: list[float]) -> None:
    """Memory by length as a Markdown table."""
    print(f"Peak memory of tiled forward + backward, {GROWTH_HEADS} heads, above q, k, v and dO:\n")
    print(f"| N | MiB | factor (target ≤ {GROWTH_TARGET}) |\n|---|---|---|")
    for (tokens, peak), factor in zip(peaks.items(), ["–", *(f"{factor:.3f}" for factor in factors)], strict=True):
        print(f"| {tokens:,} | {peak / 2**20:.2f} | {factor} |")


if __name__ == "__main__":
    main()
