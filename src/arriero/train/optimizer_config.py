"""The settings of AdamW, LLaMA's being the defaults (LLaMA, arXiv 2302.13971, section 2.3).

`optimizer.py` builds it; this file needs no part of PyTorch, so that help and estimates come at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from arriero.common.errors import ArrieroError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    lr: float = 3e-4
    """Peak of the learning rate: 3e-4 for LLaMA 7B and 13B, 1.5e-4 for 33B and 65B."""
    beta1: float = 0.9
    """Decay of the gradient's running mean."""
    beta2: float = 0.95
    """Decay of the squared gradient's running mean."""
    eps: float = 1e-8
    """Added to the root of the squared gradient's mean; 1e-5 in Llama 2."""
    weight_decay: float = 0.1
    """Share of lr by which a matrix shrinks each step; the weights of norms don't."""
    clip: float = 1.0
    """Largest norm of all gradients together; larger ones are scaled down to it."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "clip"):
            if not getattr(self, name) > 0:
                raise ArrieroError(f"{name}: expected a number above 0, got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ArrieroError(f"{name}: expected a number from 0 up to 1, got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise ArrieroError(f"weight_decay: expected 0 or more, got {self.weight_decay}")


@dataclass(frozen=True, kw_only=True)
class TuningOptimizerConfig(OptimizerConfig):
    """AdamW, with a learning rate that suits what learns."""

    usual: ClassVar[Mapping[str, float]]
    """The rate by method, where none was asked for."""
    lr: float | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.resolve("lora")

    def resolve(self, method: str) -> OptimizerConfig:
        """With the learning rate that suits."""
        values = {name: getattr(self, name) for name in ("beta1", "beta2", "eps", "weight_decay", "clip")}
        return OptimizerConfig(lr=self.usual[method] if self.lr is None else self.lr, **values)
