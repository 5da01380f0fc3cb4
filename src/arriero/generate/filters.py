"""Which tokens a sampler may choose: repetition penalty, top-k, top-p (nucleus), min-p; each row by its own settings.

Repetition penalty: CTRL (Keskar et al. 2019, arXiv 1909.05858, section 4.1) as `transformers` applies it, to prompt and
answer alike. Top-k: Fan et al. 2018 (arXiv 1805.04833). Top-p: Holtzman et al. 2020 (arXiv 1904.09751, section 3.1), of
what top-k left. Min-p: Nguyen et al. 2024 (arXiv 2407.01082). Each of the last three keeps the tokens above some logit,
so together they are one cut-off per row. Tokens that tie with the last one kept are kept too.

Shapes: `B` rows, `V` vocabulary, `M` candidates.
"""

import torch
from torch import Tensor

_CANDIDATES = 128  # torch.topk of 49,152 values takes 13 times as long for 256 as for 128 (measured, CPU)
_FAINTEST = -87.0  # e^-87 is the last power that float32 holds in full; below it, exp takes a CPU 15 times as long
_FAINT = 1.7e-38  # just above e^-87


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Divide the positive logits of seen tokens by the penalty and multiply the negative ones by it.

    logits (B, V); seen (S,), row · V + token of each token seen, repeated or not; penalty (B,), 1 = none. Returns new
    logits (B, V).
    """
    flat = logits.flatten().clone()  # (B·V,)
    old, factor = flat[seen], penalty[seen // logits.shape[1]]  # (S,)
    flat[seen] = torch.where(old < 0, old * factor, old / factor)
    return flat.view_as(logits)


def keep_above(logits: Tensor, cut: Tensor) -> Tensor:
    """The logits (B, V), -inf where they are below the row's cut (B, 1); by sums, as CPUs are slow at masks."""
    kept = torch.ge(logits, cut, out=torch.empty_like(logits))  # (B, V), 1 or 0
    return kept.reciprocal_().neg_().add_(1).add_(logits)  # 1 - 1/1 = 0 and 1 - 1/0 = -inf


def weigh(logits: Tensor) -> Tensor:
    """exp(logits - the row's highest), (B, V); 0 below e^-87, which no row of fewer than 10^30 tokens would notice."""
    shifted = logits - logits.amax(-1, keepdim=True)
    return torch.threshold_(shifted.clamp_(min=_FAINTEST).exp_(), _FAINT, 0.0)


def cut_off(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """The lowest logit that each row keeps, -inf where nothing is filtered.

    logits (B, V), already divided by the temperature. Off: top_k 0, top_p 1, min_p 0; each (B,). Returns (B, 1).
    """
    cut = logits.new_full((logits.shape[0], 1), -torch.inf)  # (B, 1)
    if bool((top_k > 0).any()):
        cut = _cut_top_k(logits, top_k)
    if bool((top_p < 1).any()):
        cut = torch.maximum(cut, _cut_top_p(logits, cut, top_p))
    if bool((min_p > 0).any()):
        cut = torch.maximum(cut, logits.amax(-1, keepdim=True) + min_p[:, None].log())
    return cut


def _cut_top_k(logits: Tensor, top_k: Tensor) -> Tensor:
    """The k-th largest logit of each row, -inf where k is 0 or above the vocabulary.  (B, 1)"""
    vocab = logits.shape[1]
    active = (top_k > 0) & (top_k < vocab)  # (B,)
    widest = int(torch.where(active, top_k, 1).max())
    values = logits.topk(widest, dim=-1).values  # (B, M), descending
    last = (top_k.clamp(1, widest) - 1)[:, None]  # (B, 1)
    return values.gather(1, last).masked_fill(~active[:, None], -torch.inf)


def _cut_top_p(logits: Tensor, cut: Tensor, top_p: Tensor) -> Tensor:
    """The lowest logit of the smallest set that holds `top_p` of the mass at or above `cut`.  (B, 1)

    A token stays if the mass strictly before it, in descending order, is below `top_p`; the first always stays.
    """
    peak = logits.amax(-1, keepdim=True)  # (B, 1)
    weights = weigh(logits).mul_(torch.ge(logits, cut, out=torch.empty_like(logits)))  # (B, V)
    total = weights.sum(-1, keepdim=True, dtype=torch.float64)  # (B, 1)
    wanted = total * top_p[:, None]  # (B, 1)
    head = logits.topk(min(_CANDIDATES, logits.shape[1]), dim=-1).values  # (B, M)
    mass = (head - peak).exp().masked_fill(head < cut, 0.0).double()  # (B, M)
    kept = ((mass.cumsum(-1) - mass) < wanted).sum(-1, keepdim=True).clamp(min=1)  # (B, 1); fp32 may round top_p to 0
    result = head.gather(1, kept - 1)  # (B, 1)
    unfinished = (kept[:, 0] == head.shape[1]) & (top_p < 1)
    for row in unfinished.nonzero()[:, 0].tolist():
        result[row] = _cut_wide_nucleus(logits[row], weights[row], total[row], float(top_p[row]))
    return result.masked_fill((top_p >= 1)[:, None], -torch.inf)


def _cut_wide_nucleus(logits: Tensor, weights: Tensor, total: Tensor, top_p: float) -> Tensor:
    """Top-p for one row (V,) whose nucleus is wider than the first candidates; returns its lowest logit, ().

    All tokens below (1 − p)/V together hold less than 1 − p, so they lie outside: only the others are sorted.
    """
    floor = total[0] * (1 - top_p) / logits.shape[0]
    inside = weights >= floor.to(weights.dtype) * 0.999  # (V,); the margin covers the rounding to float32
    order = logits[inside].sort(descending=True)
    mass = weights[inside][order.indices].double()  # (M,)
    kept = int(((mass.cumsum(0) - mass) < total[0] * top_p).sum())
    return order.values[kept - 1]
