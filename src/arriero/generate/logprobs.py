"""Log-probabilities of chosen and likeliest tokens, without the whole log-softmax.

Shapes: `B` rows, `V` vocabulary, `N` tokens reported.
"""

import torch
from torch import Tensor

from arriero.generate.request import TokenLogprob


def report_logprobs(logits: Tensor, tokens: Tensor, top: int) -> list[TokenLogprob]:
    """Log-softmax (nats) of `logits` (B, V) float32 at `tokens` (B,) and at the `top` likeliest of each row."""
    total = logits.logsumexp(-1, keepdim=True)  # (B, 1)
    chosen = (logits.gather(1, tokens[:, None]) - total)[:, 0].tolist()
    likeliest = torch.topk(logits, min(top, logits.shape[1]), dim=-1)
    values, ids = (likeliest.values - total).tolist(), likeliest.indices.tolist()  # (B, N)
    return [
        TokenLogprob(token, logprob, tuple(zip(row_ids, row_values, strict=True)))
        for token, logprob, row_ids, row_values in zip(tokens.tolist(), chosen, ids, values, strict=True)
    ]
