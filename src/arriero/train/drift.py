"""How far a model with packed weights is from the same model in full precision, on text.

The perplexities of both and their ratio tell what it costs in prediction; the mean divergence KL(full ‖ packed) over
the predicted tokens, and how often both have the same likeliest token, tell how often another answer comes out: errors
that cancel in the perplexity do not cancel there.

N predicted tokens, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch

from arriero.model.transformer import Llama
from arriero.train.evaluate import DocumentSource, Evaluation, Reading, Tell, add_up
from arriero.train.windows import Window, check_finite, in_batches, predict_chunks, read_windows


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Two models on a source, or on several together."""

    full: Evaluation
    packed: Evaluation
    kl: float
    """Σ KL(full ‖ packed) over the tokens, in nats."""
    agreed: int
    """Tokens for which both have the same likeliest one."""

    @property
    def ratio(self) -> float:
        """The packed model's perplexity in units of the full one's; infinity beyond what a float holds."""
        worse = self.packed.loss - self.full.loss
        return math.exp(worse) if worse < 709 else math.inf

    @property
    def mean_kl(self) -> float:
        """Nats a token."""
        return self.kl / self.full.tokens

    @property
    def agreement(self) -> float:
        """Share of the tokens for which both have the same likeliest one."""
        return self.agreed / self.full.tokens

    def facts(self) -> dict[str, Any]:
        """The full model's evaluation, and what the packed one makes of it; an infinite ratio is None, as there."""
        ratio = self.ratio if math.isfinite(self.ratio) else None
        drift = {"perplexity_ratio": ratio, "mean_kl": self.mean_kl, "agreement": self.agreement}
        return self.full.facts() | {"packed": self.packed.facts(), "drift": drift}


def compare(
    full: Llama,
    packed: Llama,
    source: DocumentSource,
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int = 4096,
    tell: Tell | None = None,
) -> Drift:
    """Predict a source's documents with both models; arguments and errors as of `evaluate`."""
    reading = Reading(source, full.config.max_seq_len, context=context, stride=stride, tell=tell)
    pairs = list(in_batches(reading.windows(), batch_tokens, lambda batch: _compare(full, packed, batch)))
    return Drift(
        full=reading.evaluation(-math.fsum(pair.full for pair in pairs)),
        packed=reading.evaluation(-math.fsum(pair.packed for pair in pairs)),
        kl=math.fsum(pair.kl for pair in pairs),
        agreed=sum(pair.agreed for pair in pairs),
    )


def add_up_drifts(drifts: Sequence[Drift]) -> Drift:
    """All sources as one: every token counts the same."""
    return Drift(
        full=add_up([drift.full for drift in drifts]),
        packed=add_up([drift.packed for drift in drifts]),
        kl=math.fsum(drift.kl for drift in drifts),
        agreed=sum(drift.agreed for drift in drifts),
    )


class _Pair(NamedTuple):
    """Sums over a window's scored tokens."""

    full: float
    packed: float
    kl: float
    agreed: int


@torch.inference_mode()
def _compare(full: Llama, packed: Llama, windows: list[Window]) -> list[_Pair]:
    hidden, targets = read_windows(full, windows)  # (N, C), (N,)
    other, _ = read_windows(packed, windows)  # (N, C)
    sums = torch.empty(4, len(targets), dtype=torch.float64, device=targets.device)  # (4, N): long sums follow
    chunks = zip(predict_chunks(full, hidden), predict_chunks(packed, other), strict=True)
    for (part, p), (_, q) in chunks:  # (n, V)
        ids = targets[part, None]
        sums[0, part] = p.gather(1, ids)[:, 0].double()
        sums[1, part] = q.gather(1, ids)[:, 0].double()
        sums[2, part] = (p.exp() * (p - q)).sum(1).double()
        sums[3, part] = (p.argmax(1) == q.argmax(1)).double()
    ends = accumulate((window.scored for window in windows), initial=0)
    pairs = [_pair(sums[:, a:b].sum(1).tolist()) for a, b in pairwise(ends)]
    check_finite(full, (pair.full for pair in pairs))
    check_finite(packed, (pair.packed for pair in pairs))
    return pairs


def _pair(sums: list[float]) -> _Pair:
    return _Pair(sums[0], sums[1], sums[2], int(sums[3]))
