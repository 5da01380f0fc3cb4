"""Exact search against HNSW: milliseconds a query, recall, building time and memory by size; sets `index.HNSW_FROM`.

Vectors of 384 dimensions, as all-MiniLM-L6-v2 gives them: of real text, as `vectors.py` wrote them and beyond their
number made of them (see `expand`), with real questions and passages that are held out; clustered; and uniformly random,
the worst case. Each row runs in a process of its own, so that its peak of memory is its own. Searches run on one core,
one query at a time; where others use the machine, the processor's time stands beside the clock's.

    python benchmarks/vectors.py vectors.npz
    python benchmarks/index.py [--vectors vectors.npz] [--kinds text clustered random] [--sizes 20000 100000] [--json]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from figures import Figure, as_json, beside, exit_if_missed
from numpy.typing import NDArray

from arriero.rag.index import FaissIndex

DIM, QUERIES, K = 384, 200, 10
TOKEN = "benchmark"
BLOCK = 10_000
NEIGHBOURS, NOISE = 8, 0.7
RECALL_TARGET, MS_TARGET, TARGET_FROM = 0.98, 2.0, 1_000_000
Vectors = NDArray[np.float32]
T = TypeVar("T")


def main() -> None:
    """Measure and print a table, or JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, help="what vectors.py wrote; needed for the kind text")
    parser.add_argument("--kinds", nargs="+", choices=("text", "clustered", "random"), default=["clustered", "random"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 50_000, 100_000], help="passages")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = [run_apart(kind, size, options.vectors) for kind in options.kinds for size in options.sizes]
    figures = judge(rows)
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows, "targets": as_json(figures)}, indent=2))
    else:
        print_table(rows)
    exit_if_missed(figures)


def judge(rows: list[dict[str, Any]]) -> list[Figure]:
    """HNSW beside exact search; the targets are those of a million passages of real text."""
    made = []
    for row in rows:
        full = row["kind"] == "text" and row["size"] >= TARGET_FROM
        name, recall = f"{row['size']:,} vectors, {row['kind']}", min(row["recall"].values())
        exact, near = row["flat_cpu_ms"], row["hnsw_cpu_ms"]
        made += [
            beside(f"{name}: exact search's time ÷ HNSW's", near, exact, "exact search", "ms", value=exact / near),
            Figure(what=f"{name}: HNSW's recall@10", value=recall, least=RECALL_TARGET if full else None),
        ]
        if full:
            made.append(Figure(what=f"{name}: HNSW's time", value=near, most=MS_TARGET, unit="ms"))
    return made


def run_apart(kind: str, size: int, vectors: Path | None) -> dict[str, Any]:
    """One row, in a process of its own."""
    settings = json.dumps({"kind": kind, "size": size, "vectors": str(vectors) if vectors else None})
    output = subprocess.run([sys.executable, __file__, "row", settings], check=True, stdout=subprocess.PIPE).stdout
    row: dict[str, Any] = json.loads(output)
    print(f"{kind}, {size}: {row}", file=sys.stderr)
    return row


def measure(kind: str, size: int, source: str | None) -> dict[str, Any]:
    """Both kinds of index over the same vectors, and a snapshot of the second."""
    flat, flat_build, queries = index_exactly(kind, size, source)
    exact = {name: search_all(flat, own) for name, own in queries.items()}
    before = current_memory()
    processor = time.process_time()
    hnsw, hnsw_build = timed(flat.settled)
    processor = time.process_time() - processor
    del flat  # its memory is not the graph's
    after = current_memory()
    near = {name: search_all(hnsw, own) for name, own in queries.items()}
    recall = {
        name: statistics.mean(len(set(a) & set(b)) / K for a, b in zip(exact[name][0], near[name][0], strict=True))
        for name in queries
    }
    figures = {
        "kind": kind,
        "size": size,
        "recall": recall,
        **{f"flat_{unit}": max(each[at] for each in exact.values()) for at, unit in ((1, "ms"), (2, "cpu_ms"))},
        **{f"hnsw_{unit}": max(each[at] for each in near.values()) for at, unit in ((1, "ms"), (2, "cpu_ms"))},
        "flat_build_s": flat_build,
        "hnsw_build_s": hnsw_build,
        "hnsw_build_cpu_s": processor,
        "vectors_bytes": 4 * size * DIM,
        "flat_memory": before,
        "hnsw_memory": after,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.faiss"
        start = time.perf_counter()
        hnsw.save(path, generation=1, token=TOKEN)
        figures["save_s"] = time.perf_counter() - start
        figures["snapshot_bytes"] = path.stat().st_size
        loaded, figures["load_s"] = timed(lambda: FaissIndex.load(path, dim=DIM, tokens=[TOKEN], hnsw_from=1))
    assert loaded is not None
    return figures


def index_exactly(kind: str, size: int, source: str | None) -> tuple[FaissIndex, float, dict[str, Vectors]]:
    """An exact index, the seconds to fill it, and queries."""
    vectors, queries = draw_text(size, str(source)) if kind == "text" else draw(size, kind)
    flat = FaissIndex(DIM, hnsw_from=1)
    _, took = timed(lambda: flat.add(np.arange(size, dtype=np.int64), vectors))
    return flat, took, queries


def draw(count: int, kind: str) -> tuple[Vectors, dict[str, Vectors]]:
    """Vectors of length 1 and queries: around one centre in 200, or anywhere."""
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((count + QUERIES, DIM), dtype=np.float32)
    if kind == "clustered":
        centres = chance.standard_normal((max(1, count // 200), DIM), dtype=np.float32)
        vectors = 0.7 * vectors + centres[chance.integers(0, len(centres), count + QUERIES)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:count], {"drawn": vectors[count:]}


def draw_text(count: int, source: str) -> tuple[Vectors, dict[str, Vectors]]:
    """Real passages, beyond their number ones made of them; as queries real questions, and passages held out."""
    chance = np.random.default_rng(0)
    with np.load(source) as read:
        base, asked = read["base"], {"questions": read["questions"], "held out": read["held_out"]}
    queries = {name: own[chance.permutation(len(own))[:QUERIES]] for name, own in asked.items()}
    vectors = np.empty((count, DIM), dtype=np.float32)
    vectors[: len(base)] = base[:count]
    if count > len(base):
        expand(base, vectors[len(base) :], chance)
    return vectors, queries


def expand(base: Vectors, room: Vectors, chance: np.random.Generator) -> None:
    """Fill `room` with vectors like those of `base`: between one of them and one of its nearest, and beside that line.

    x = a + u (b − a) + s ‖b − a‖ e, scaled to length 1, where a is any of `base` and b any of its `NEIGHBOURS` nearest,
    u is uniform in [0, 1], and e is normal with E‖e‖² = 1 over all dimensions: so the noise follows the spread of real
    passages there. s (`NOISE`) is chosen, not measured: whether such vectors are as hard to search as real ones is not
    known.
    """
    flat = FaissIndex(DIM, hnsw_from=len(base) + 1)
    flat.add(np.arange(len(base), dtype=np.int64), base)
    near = np.array([flat.search(vector, NEIGHBOURS + 1)[1:] for vector in base])  # (N, NEIGHBOURS)
    for start in range(0, len(room), BLOCK):
        block = room[start : start + BLOCK]
        own = chance.integers(0, len(base), len(block))
        others = near[own, chance.integers(0, NEIGHBOURS, len(block))]
        way = base[others] - base[own]  # (n, DIM)
        noise = chance.standard_normal(block.shape, dtype=np.float32) / np.sqrt(np.float32(DIM))
        along = chance.random((len(block), 1), dtype=np.float32)
        block[:] = base[own] + along * way + NOISE * np.linalg.norm(way, axis=1, keepdims=True) * noise
        block /= np.linalg.norm(block, axis=1, keepdims=True)


def search_all(index: FaissIndex, queries: Vectors) -> tuple[list[list[int]], float, float]:
    """What each query finds, and the medians of the milliseconds by the clock and of the processor."""
    index.search(queries[0], K)
    found, clock, processor = [], [], []
    for query in queries:
        start, start_cpu = time.perf_counter(), time.thread_time()
        found.append(index.search(query, K))
        clock.append(1000 * (time.perf_counter() - start))
        processor.append(1000 * (time.thread_time() - start_cpu))
    return found, statistics.median(clock), statistics.median(processor)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What the work gives, and the seconds it takes."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def current_memory() -> int:
    """Bytes of memory that this process has now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def machine() -> str:
    """Processor, threads and versions, in one line."""
    import faiss
    import torch

    from arriero.common.machine import machine_line

    return f"{machine_line(torch.device('cpu'))}, faiss {faiss.__version__}"


def print_table(rows: list[dict[str, Any]]) -> None:
    """The results as Markdown."""
    print(f"{machine()}; time of the clock (of the processor), medians of {QUERIES} queries one by one\n")
    heads = ("vectors", "size", "exact ms", "HNSW ms", "HNSW recall@10", "build s", "memory", "peak", "snapshot")
    print(f"| {' | '.join(heads)} | save, load s |\n{'|---' * 10}|")
    for row in rows:
        recall = ", ".join(f"{value:.3f} {name}" for name, value in row["recall"].items())
        exact, near = (f"{row[f'{name}_ms']:.2f} ({row[f'{name}_cpu_ms']:.2f})" for name in ("flat", "hnsw"))
        sizes = " | ".join(f"{row[name] / 1e9:.2f} GB" for name in ("hnsw_memory", "peak", "snapshot_bytes"))
        print(
            f"| {row['kind']} | {row['size']:,} | {exact} | {near} | {recall} "
            f"| {row['hnsw_build_s']:.0f} ({row['hnsw_build_cpu_s']:.0f}) | {sizes} "
            f"| {row['save_s']:.1f}, {row['load_s']:.1f} |"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["row"]:
        asked = json.loads(sys.argv[2])
        print(json.dumps(measure(asked["kind"], asked["size"], asked["vectors"])))
    else:
        main()
