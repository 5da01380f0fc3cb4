"""LoRA: a matrix W changes by a product of thin ones, h = W x + (α/r) B A x (Hu et al., arXiv 2106.09685, section 4).

And what grew out of it: scales that stay stable at high rank (rsLoRA, Kalajdzievski, arXiv 2312.03732: α/√r), direction
and magnitude learnt apart (DoRA, Liu et al., arXiv 2402.09353), and a start from W's largest singular vectors (PiSSA,
Meng et al., arXiv 2404.02948). This file is the mathematics of one matrix; `adapters.py` puts it into a model.

O outputs, C inputs, r rank; an embedding's C is the vocabulary. N tokens.
"""

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arriero.kernels.linear import linear
from arriero.model.lora_config import LoraConfig


def weight_of(host: nn.Module) -> Tensor:
    """W (O, C) of a linear layer, or of an embedding (its table transposed)."""
    weight = host.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(host, nn.Embedding) else weight


class LowRank(nn.Module):
    """The change of one matrix: s B A, and with DoRA the lengths of the rows."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float, *, dropout: float = 0.0) -> None:
        """A change without values yet: `start` or a loader sets them.

        Args:
            inputs: C.
            outputs: O.
            rank: r.
            scale: s.
            dropout: share of the inputs left out in training.
        """
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.empty(outputs, rank))
        self.magnitude: nn.Parameter | None = None
        """(O,) lengths of the rows, with DoRA."""
        self.anchor_a: nn.Parameter | None = None
        self.anchor_b: nn.Parameter | None = None
        """Where PiSSA began, (r, C) and (O, r), which is subtracted: so W itself stays as it is."""
        self.scale, self.dropout = scale, dropout

    def blank(self) -> Self:
        """A change of the same kind and shape, without values."""
        (rank, inputs), outputs = self.a.shape, len(self.b)
        other = type(self)(inputs, outputs, rank, self.scale, dropout=self.dropout)
        for name in ("magnitude", "anchor_a", "anchor_b"):
            own = getattr(self, name)
            setattr(other, name, None if own is None else nn.Parameter(torch.empty(own.shape)))
        return other

    @torch.no_grad()
    def start(self, weight: Tensor, config: LoraConfig, generator: torch.Generator) -> None:
        """Values to begin training with; the model computes what it did before.

        Args:
            weight: W (O, C).
            config: which beginning.
            generator: of A's random numbers, on the CPU.
        """
        rank, inputs = self.a.shape
        self.b.zero_()
        if config.init == "pissa":
            self._start_from_singular_vectors(weight)
        elif config.init == "gaussian":
            self.a.copy_(torch.empty(rank, inputs).normal_(0.0, 1 / rank, generator=generator))
        else:
            bound = 1 / math.sqrt(inputs)  # Kaiming's uniform with a = √5, as nn.Linear begins
            self.a.copy_(torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator))
        if config.dora:
            self.magnitude = nn.Parameter(weight.float().norm(dim=1))

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (r, C) and B (O, r) whose product, times `scale`, is the change; of twice the rank after PiSSA."""
        if self.anchor_a is None or self.anchor_b is None:
            return self.a, self.b
        return torch.cat([self.a, self.anchor_a]), torch.cat([self.b, -self.anchor_b], dim=1)

    def change(self, weight: Tensor) -> Tensor:
        """W' − W (O, C) in fp32, for merging."""
        weight = weight.float()
        a, b = (factor.float() for factor in self.factors())
        low_rank = self.scale * (b @ a)
        if self.magnitude is None:
            return low_rank
        return self.stretch(weight).float()[:, None] * (weight + low_rank) - weight

    def stretch(self, weight: Tensor) -> Tensor:
        """DoRA's m / ‖W + s B A‖ by row (O,); the length below is taken as a constant (DoRA, section 4.3).

        ‖w + s B A‖² = ‖w‖² + 2 s b · (A w) + s² b A Aᵀ b for a row w of W and b of B: no matrix of W's size is made.
        """
        assert self.magnitude is not None
        with torch.no_grad():
            a, b = (factor.float() for factor in self.factors())
            rows = weight.float()
            crossed = (b * linear(rows, a)).sum(1)  # (O,)
            squared = (b * (b @ (a @ a.T))).sum(1)  # (O,)
            squared = rows.square().sum(1) + 2 * self.scale * crossed + self.scale**2 * squared
            length = squared.clamp(min=1e-30).sqrt()  # a row of zeros stays one
        return self.magnitude / length.to(self.magnitude.dtype)

    def forward(self, x: Tensor, y: Tensor, host: nn.Module) -> Tensor:
        """W' x for x (…, C), given y = W x (…, O) and the module that holds W; in y's dtype, computed in A's."""
        a, b = self.factors()
        low = linear(F.dropout(x, self.dropout, self.training).to(a.dtype), a)  # (…, r)
        changed = y + linear(low * self.scale, b)  # (…, O)
        if self.magnitude is not None:
            changed = changed * self.stretch(weight_of(host))
        return changed.to(y.dtype)

    @torch.no_grad()
    def _start_from_singular_vectors(self, weight: Tensor) -> None:
        """B A = the r largest of U S Vᵀ = W, S halved between them (PiSSA, equations 2 to 4)."""
        rank = len(self.a)
        u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
        root = (s[:rank] / self.scale).sqrt()
        self.a.copy_(root[:, None] * v[:rank])
        self.b.copy_(u[:, :rank] * root)
        self.anchor_a = nn.Parameter(self.a.clone(), requires_grad=False)
        self.anchor_b = nn.Parameter(self.b.clone(), requires_grad=False)


class LowRankEmbedding(LowRank):
    """The change of an embedding: its rows are W's columns here, so that A is (r, vocabulary) and B (dim, r)."""

    def forward(self, x: Tensor, y: Tensor, host: nn.Module) -> Tensor:
        """The embeddings of ids x (…), given those of W, y (…, O)."""
        a, b = self.factors()
        return (y + linear(F.embedding(x, a.T) * self.scale, b)).to(y.dtype)


class Whole(nn.Module):
    """Another matrix instead of W, for modules that are trained whole; in the shape of the module's own weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float().clone())

    def blank(self) -> Self:
        """A change of the same kind and shape, without values."""
        return type(self)(torch.empty(self.weight.shape))

    def change(self, weight: Tensor) -> Tensor:
        """W' − W (O, C), in fp32."""
        return weight_of(self).float() - weight.float()


class WholeLinear(Whole):
    """Another matrix of a linear layer, (O, C)."""

    def forward(self, x: Tensor, y: Tensor, host: nn.Module) -> Tensor:
        """W' x for x (…, C)."""
        return linear(x.to(self.weight.dtype), self.weight).to(y.dtype)


class WholeEmbedding(Whole):
    """Another embedding, (vocabulary, dim)."""

    def change(self, weight: Tensor) -> Tensor:
        """W' − W (O, C), in fp32."""
        return self.weight.T.float() - weight.float()

    def forward(self, x: Tensor, y: Tensor, host: nn.Module) -> Tensor:
        """The embeddings of ids x (…)."""
        return F.embedding(x, self.weight).to(y.dtype)


def truncate(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Thin matrices (rank, C) and (O, rank) whose product is nearest to b a (Eckart and Young), by an R × R SVD."""
    left, inner_b = torch.linalg.qr(b.float())  # (O, R), (R, R)
    right, inner_a = torch.linalg.qr(a.float().T)  # (C, R), (R, R)
    u, s, v = torch.linalg.svd(inner_b @ inner_a.T)
    root = s[:rank].sqrt()
    return (root[:, None] * v[:rank]) @ right.T, (left @ u[:, :rank]) * root
