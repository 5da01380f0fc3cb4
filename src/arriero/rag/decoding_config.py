"""The settings of how RAG's two models answer (Lewis et al., arXiv 2005.11401, section 2.5).

`decode.py` does it; this file needs no part of PyTorch, so that help comes at once.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from arriero.common.errors import ArrieroError
from arriero.generate.sampling_config import SamplingConfig

RagKind = Literal["sequence", "token"]
Decoding = Literal["thorough", "fast", "beam", "greedy", "sample"]
OF_KIND: dict[RagKind, tuple[Decoding, ...]] = {
    "sequence": ("thorough", "fast", "greedy"),
    "token": ("beam", "greedy", "sample"),
}
"""How each model can be decoded, the usual way first."""


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """Which of the two models, and how its answers are found."""

    kind: RagKind = "sequence"
    """sequence: one document stands behind the whole answer; token: each token may lean on another one."""
    decoding: Decoding | None = None
    """sequence: thorough (default), fast, greedy (thorough with one beam); token: beam (default), greedy, sample."""
    beams: int = 4
    """Breadth of the search."""
    max_tokens: int = 32
    """Most tokens of an answer."""
    num_return: int = 1
    """Answers to return; fewer where fewer are found."""
    temperature: float = 1.0
    """Of sampling."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that together hold this probability; 1 = all."""
    seed: int = 0
    """Of sampling."""
    rows: int = 128
    """Most rows (beams of a document) that decode together, unless one question has more."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(RagKind):
            raise ArrieroError(f"kind: expected sequence or token, got '{self.kind}'")
        if self.decoding is not None and self.decoding not in OF_KIND[self.kind]:
            ways = ", ".join(OF_KIND[self.kind])
            raise ArrieroError(f"decoding: RAG-{self.kind.capitalize()} takes {ways}, not '{self.decoding}'")
        for name in ("beams", "max_tokens", "num_return", "rows"):
            if getattr(self, name) < 1:
                raise ArrieroError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.way == "sample" and self.sampling(0).temperature == 0:
            raise ArrieroError("temperature: expected a number above 0 for samples, got 0: decode greedily instead")

    @property
    def way(self) -> Decoding:
        """How it is decoded."""
        return self.decoding or OF_KIND[self.kind][0]

    @property
    def breadth(self) -> int:
        """Beams of a search."""
        return 1 if self.way == "greedy" else self.num_return if self.way == "sample" else self.beams

    def sampling(self, sample: int) -> SamplingConfig:
        """The engine's settings for one sample."""
        seed = self.seed + sample
        return SamplingConfig(
            max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, seed=seed, n=1
        )
