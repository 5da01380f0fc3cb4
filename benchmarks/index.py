"""Exact search against HNSW: milliseconds a query, recall and building time by size; sets `index.HNSW_FROM`.

Vectors of 384 dimensions, as all-MiniLM-L6-v2 gives them: clustered (like text) and uniformly random (the worst case).

    python benchmarks/index.py [--sizes 20000 50000 100000] [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from arriero.rag.index import FaissIndex

DIM, QUERIES, K = 384, 100, 10
T = TypeVar("T")


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 50_000, 100_000], help="passages")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = [measure(size, kind) for kind in ("clustered", "random") for size in options.sizes]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    heads = ("size", "flat ms", "hnsw ms", "recall@10", "flat build s", "hnsw build s")
    print(f"{'vectors':>10}" + "".join(f"{head:>14}" for head in heads))
    for row in rows:
        print(
            f"{row['kind']:>10}{row['size']:>14}{row['flat_ms']:>14.2f}{row['hnsw_ms']:>14.2f}{row['recall']:>14.3f}"
            f"{row['flat_build_s']:>14.1f}{row['hnsw_build_s']:>14.1f}"
        )


def measure(size: int, kind: str) -> dict[str, Any]:
    """Both kinds of index over the same vectors."""
    vectors = draw(size + QUERIES, kind)
    queries, vectors = vectors[size:], vectors[:size]
    ids = np.arange(size, dtype=np.int64)
    flat = FaissIndex(DIM, hnsw_from=1)
    flat_build, _ = timed(lambda: flat.add(ids, vectors))
    hnsw_build, hnsw = timed(flat.settled)
    exact, flat_ms = search_all(flat, queries)
    near, hnsw_ms = search_all(hnsw, queries)
    recall = statistics.mean(len(set(a) & set(b)) / K for a, b in zip(exact, near, strict=True))
    figures = {"flat_ms": flat_ms, "hnsw_ms": hnsw_ms, "recall": recall}
    return {"kind": kind, "size": size, **figures, "flat_build_s": flat_build, "hnsw_build_s": hnsw_build}


def draw(count: int, kind: str) -> NDArray[np.float32]:
    """Vectors of length 1: around one centre in 200, or anywhere."""
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((count, DIM), dtype=np.float32)
    if kind == "clustered":
        centres = chance.standard_normal((max(1, count // 200), DIM), dtype=np.float32)
        vectors = 0.7 * vectors + centres[chance.integers(0, len(centres), count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def search_all(index: FaissIndex, queries: NDArray[np.float32]) -> tuple[list[list[int]], float]:
    """What each query finds, and the median milliseconds."""
    index.search(queries[0], K)
    found, times = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(index.search(query, K))
        times.append(1000 * (time.perf_counter() - start))
    return found, statistics.median(times)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds that the work takes, and what it gives."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
