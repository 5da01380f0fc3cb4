"""FlashAttention's IO analysis, counted: elements read from and written to HBM (arXiv 2205.14135, section 3.2).

Each function walks the blocks of an algorithm for one head and adds up its loads and stores, as the paper's proofs do.
It is a count of the schedule, not a measurement: caches, what a compiler makes of it, masks, dropout and the zeros that
results start from are left out. Standard attention reads each matrix once a product, the least it can.

N tokens, d head dim, M elements of SRAM. The outer loop's blocks have ⌈M/4d⌉ tokens, the inner loop's min(⌈M/4d⌉, d).
"""

from dataclasses import dataclass
from typing import Literal

from arriero.common.errors import ArrieroError
from arriero.kernels.block_mask import butterfly

Pass = Literal["forward", "backward"]
STANDARD, SPARSE = "standard", "butterfly"
KEYS_OUTSIDE, QUERIES_OUTSIDE = "tiled, keys outside", "tiled, queries outside"
MOST_TILES = 4_000_000
"""Tiles of scores that a walk visits at most, a few seconds' worth."""


@dataclass(frozen=True)
class Traffic:
    """Elements that cross between SRAM and HBM."""

    reads: int
    writes: int

    @property
    def total(self) -> int:
        """Both."""
        return self.reads + self.writes


@dataclass(frozen=True)
class Row:
    """One pass of one algorithm."""

    passes: Pass
    algorithm: str
    traffic: Traffic


def count_all(tokens: int, dim: int, sram: int) -> list[Row]:
    """Each algorithm forward, then each backward; the butterfly is block-sparse, in the paper's order.

    Raises:
        ArrieroError: M is not between d and Nd, a number is below 1, or the walk would take too long.
    """
    size = (tokens, dim, sram)
    seen = butterfly_blocks(*size)
    return [
        Row("forward", STANDARD, count_standard(tokens, dim)),
        Row("forward", KEYS_OUTSIDE, count_tiled(*size)),
        Row("forward", QUERIES_OUTSIDE, count_queries_outside(*size)),
        Row("forward", SPARSE, count_tiled(*size, seen)),
        Row("backward", STANDARD, count_standard_backward(tokens, dim)),
        Row("backward", KEYS_OUTSIDE, count_tiled_backward(*size)),
        Row("backward", QUERIES_OUTSIDE, count_queries_outside_backward(*size)),
        Row("backward", SPARSE, count_tiled_backward(*size, seen)),
    ]


def butterfly_blocks(tokens: int, dim: int, sram: int) -> list[list[bool]]:
    """The flat butterfly of the key blocks, stretched over the query blocks, which are more."""
    rows, columns = _blocks(tokens, dim, sram)
    pattern: list[list[bool]] = butterfly(len(columns)).tolist()
    return [pattern[i * len(columns) // len(rows)] for i in range(len(rows))]


def count_standard(tokens: int, dim: int) -> Traffic:
    """Algorithm 0: S = QKᵀ, P = softmax(S) and O = PV, each from HBM and back. Θ(Nd + N²)."""
    matrix, scores = tokens * dim, tokens * tokens
    reads = 2 * matrix + scores + scores + matrix  # Q and K; S; P and V
    return Traffic(reads=reads, writes=scores + scores + matrix)  # S; P; O


def count_standard_backward(tokens: int, dim: int) -> Traffic:
    """Algorithm 3: P was kept, and dP and dS go to HBM and back. Θ(Nd + N²)."""
    matrix, scores = tokens * dim, tokens * tokens
    reads = (scores + matrix) + 2 * matrix + 2 * scores + (scores + matrix) + (scores + matrix)
    # P and dO; dO and V; P and dP; dS and K; dS and Q
    return Traffic(reads=reads, writes=matrix + scores + scores + matrix + matrix)  # dV; dP; dS; dQ; dK


def count_tiled(tokens: int, dim: int, sram: int, seen: list[list[bool]] | None = None) -> Traffic:
    """Algorithm 1, in the paper's order: K_j and V_j outside, Q_i, O_i, ℓ_i and m_i inside. Θ(N²d²/M).

    Args:
        seen: for block-sparse attention (section 3.3), whether query block i sees key block j; all do by default.

    Raises:
        ArrieroError: M is not between d and Nd, or `seen` has another shape than the blocks.
    """
    rows, columns = _blocks(tokens, dim, sram, seen)
    reads, writes = 0, 0
    for j, keys in enumerate(columns):
        reads += 2 * keys * dim  # K_j and V_j
        for i, queries in enumerate(rows):
            if seen is None or seen[i][j]:
                reads += queries * (2 * dim + 2)  # Q_i, O_i, ℓ_i, m_i
                writes += queries * (dim + 2)  # O_i, ℓ_i, m_i
    return Traffic(reads=reads, writes=writes)


def count_tiled_backward(tokens: int, dim: int, sram: int, seen: list[list[bool]] | None = None) -> Traffic:
    """Algorithm 4: K_j and V_j outside; Q_i, O_i, dO_i, dQ_i, ℓ_i and m_i inside. Θ(N²d²/M). `seen` as forward."""
    rows, columns = _blocks(tokens, dim, sram, seen)
    reads, writes = 0, 0
    for j, keys in enumerate(columns):
        reads += 2 * keys * dim  # K_j and V_j
        for i, queries in enumerate(rows):
            if seen is None or seen[i][j]:
                reads += queries * (4 * dim + 2)  # Q_i, O_i, dO_i, dQ_i, ℓ_i, m_i
                writes += queries * dim  # dQ_i
        writes += 2 * keys * dim  # dK_j and dV_j
    return Traffic(reads=reads, writes=writes)


def count_queries_outside(tokens: int, dim: int, sram: int) -> Traffic:
    """The order of our kernels: O_i, ℓ_i and m_i stay in SRAM while the keys pass by, and L = m + log ℓ is kept."""
    inner, outer = _blocks(tokens, dim, sram)
    reads, writes = 0, 0
    for queries in outer:
        reads += queries * dim  # Q_i
        for keys in inner:
            reads += 2 * keys * dim  # K_j and V_j
        writes += queries * (dim + 1)  # O_i, L_i
    return Traffic(reads=reads, writes=writes)


def count_queries_outside_backward(tokens: int, dim: int, sram: int) -> Traffic:
    """The order of our kernels where results are deterministic: D, then dK and dV with keys outside, then dQ."""
    inner, outer = _blocks(tokens, dim, sram)
    reads, writes = 0, 0
    for queries in inner:
        reads += 2 * queries * dim  # O_i and dO_i
        writes += queries  # D_i
    for keys in outer:
        reads += 2 * keys * dim  # K_j and V_j
        for queries in inner:
            reads += queries * (2 * dim + 2)  # Q_i, dO_i, L_i, D_i
        writes += 2 * keys * dim  # dK_j and dV_j
    for queries in outer:
        reads += queries * (2 * dim + 2)  # Q_i, dO_i, L_i, D_i
        for keys in inner:
            reads += 2 * keys * dim  # K_j and V_j
        writes += queries * dim  # dQ_i
    return Traffic(reads=reads, writes=writes)


def _blocks(tokens: int, dim: int, sram: int, seen: list[list[bool]] | None = None) -> tuple[list[int], list[int]]:
    """Sizes of the inner blocks (the paper's B_r) and of the outer blocks (B_c); the last is cut."""
    if min(tokens, dim) < 1:
        raise ArrieroError(f"tokens, head dim: expected 1 or more of each, got {tokens} and {dim}")
    if not dim <= sram <= tokens * dim:
        raise ArrieroError(f"sram: expected d to N · d elements, {dim} to {tokens * dim}, got {sram}")
    size = -(-sram // (4 * dim))
    if (tiles := -(-tokens // size) * -(-tokens // min(size, dim))) > MOST_TILES:
        raise ArrieroError(
            f"tokens: {tokens:,} make {tiles:,} tiles to walk over, expected at most {MOST_TILES:,}: "
            "give fewer tokens, or more SRAM"
        )
    rows, columns = _cut(tokens, min(size, dim)), _cut(tokens, size)
    if seen is not None and (len(seen) != len(rows) or any(len(line) != len(columns) for line in seen)):
        raise ArrieroError(
            f"seen: expected {len(rows)} × {len(columns)} blocks of queries × keys, "
            f"got {len(seen)} × {' or '.join(map(str, sorted({len(line) for line in seen})))}"
        )
    return rows, columns


def _cut(tokens: int, size: int) -> list[int]:
    return [min(size, tokens - start) for start in range(0, tokens, size)]
