"""The settings of an adapter: which matrices it changes, and by how much.

`lora.py` has the mathematics; this file needs no part of PyTorch, so that help and estimates come at once.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from arriero.common.errors import ArrieroError


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which matrices an adapter changes, and how."""

    rank: int = 8
    """r: columns of B and rows of A."""
    alpha: float = 16.0
    """α: the change is scaled by α/r."""
    targets: tuple[str, ...] = ("all-linear",)
    """Modules by name (wq or q_proj) or as regular expressions; all-linear: every matrix of every layer."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """PATTERN=RANK: another rank for some of the modules."""
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """PATTERN=ALPHA: another α for some of the modules."""
    dropout: float = 0.0
    """Share of A's inputs that are left out at random, in training."""
    rslora: bool = False
    """Scale by α/√r, which keeps high ranks learning."""
    dora: bool = False
    """Learn the length of each row of W apart from its direction."""
    init: Literal["kaiming", "gaussian", "pissa"] = "kaiming"
    """How A begins: uniform ±1/√C, normal with σ 1/r (B is 0 with both), or A and B as W's largest singular vectors."""
    whole: tuple[str, ...] = ()
    """Modules (output or tok_embeddings) trained whole, and saved with the adapter."""

    def __post_init__(self) -> None:
        for name, rank in {"rank": self.rank, **self.rank_pattern}.items():
            if rank < 1:
                raise ArrieroError(f"{name}: expected a rank of 1 or more, got {rank}")
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            if not 0 < alpha < math.inf:
                raise ArrieroError(f"{name}: expected a number above 0, got {alpha}")
        if not 0 <= self.dropout < 1:
            raise ArrieroError(f"dropout: expected a share from 0 up to 1, got {self.dropout}")
        for pattern in (*self.targets, *self.whole, *self.rank_pattern, *self.alpha_pattern):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ArrieroError(
                    f"'{pattern}': expected a module's name or a regular expression ({error})"
                ) from error

    def rank_of(self, names: Sequence[str]) -> int:
        """r of the module that goes by these names."""
        return next((rank for pattern, rank in self.rank_pattern.items() if matches(pattern, names)), self.rank)

    def alpha_of(self, names: Sequence[str]) -> float:
        """α of the module that goes by these names."""
        return next((alpha for pattern, alpha in self.alpha_pattern.items() if matches(pattern, names)), self.alpha)

    def scale_of(self, names: Sequence[str]) -> float:
        """What B A is multiplied by: α/r, or α/√r with rsLoRA."""
        rank = self.rank_of(names)
        return self.alpha_of(names) / (math.sqrt(rank) if self.rslora else rank)


def matches(pattern: str, names: Sequence[str]) -> bool:
    """Whether a name, or its last parts between dots, is what the pattern says: `wq`, `layers.0.attention.wq`."""
    return any(re.fullmatch(rf"(?:.*\.)?(?:{pattern})", name) for name in names)
