"""FlashAttention's IO analysis, counted: elements read from and written to HBM (arXiv 2205.14135, section 3.2).

Each function walks the blocks of an algorithm for one head and adds up its loads and stores, as the paper's proofs do.
It is a count of the schedule, not a measurement: caches, and what a compiler makes of it, are left out.

N tokens, d head dim, M elements of SRAM.
"""

from dataclasses import dataclass

from arriero.common.errors import ArrieroError


@dataclass(frozen=True)
class Traffic:
    """Elements that cross between SRAM and HBM."""

    reads: int
    writes: int

    @property
    def total(self) -> int:
        """Both."""
        return self.reads + self.writes


def count_standard(tokens: int, dim: int) -> Traffic:
    """Algorithm 0: S = QKᵀ, P = softmax(S) and O = PV, each from HBM and back. Θ(Nd + N²)."""
    matrix, scores = tokens * dim, tokens * tokens
    reads = 2 * matrix + scores + scores + matrix  # Q and K; S; P and V
    return Traffic(reads=reads, writes=scores + scores + matrix)  # S; P; O


def count_tiled(tokens: int, dim: int, sram: int, seen: list[list[bool]] | None = None) -> Traffic:
    """Algorithm 1, in the paper's order: K_j and V_j outside, Q_i, O_i, ℓ_i and m_i inside. Θ(N²d²/M).

    Args:
        seen: for block-sparse attention (section 3.3), whether query block i sees key block j; all do by default.

    Raises:
        ArrieroError: M is not between d and Nd.
    """
    rows, columns = _blocks(tokens, dim, sram)
    reads, writes = 0, 0
    for j, keys in enumerate(columns):
        reads += 2 * keys * dim  # K_j and V_j
        for i, queries in enumerate(rows):
            if seen is None or seen[i][j]:
                reads += queries * (2 * dim + 2)  # Q_i, O_i, ℓ_i, m_i
                writes += queries * (dim + 2)  # O_i, ℓ_i, m_i
    return Traffic(reads=reads, writes=writes)


def count_tiled_backward(tokens: int, dim: int, sram: int) -> Traffic:
    """Algorithm 4: K_j and V_j outside; Q_i, O_i, dO_i, dQ_i, ℓ_i and m_i inside. Θ(N²d²/M)."""
    rows, columns = _blocks(tokens, dim, sram)
    reads, writes = 0, 0
    for keys in columns:
        reads += 2 * keys * dim  # K_j and V_j
        for queries in rows:
            reads += queries * (4 * dim + 2)  # Q_i, O_i, dO_i, dQ_i, ℓ_i, m_i
            writes += queries * dim  # dQ_i
        writes += 2 * keys * dim  # dK_j and dV_j
    return Traffic(reads=reads, writes=writes)


def _blocks(tokens: int, dim: int, sram: int) -> tuple[list[int], list[int]]:
    """Sizes of the query blocks, B_r = min(⌈M/4d⌉, d), and of the key blocks, B_c = ⌈M/4d⌉; the last is cut."""
    if not dim <= sram <= tokens * dim:
        raise ArrieroError(f"sram: expected d to N · d elements, {dim} to {tokens * dim}, got {sram}")
    size = -(-sram // (4 * dim))
    return _cut(tokens, min(size, dim)), _cut(tokens, size)


def _cut(tokens: int, size: int) -> list[int]:
    return [min(size, tokens - start) for start in range(0, tokens, size)]
