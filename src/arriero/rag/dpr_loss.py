"""The loss that trains a bi-encoder (Karpukhin et al. 2020, arXiv 2004.04906, section 3.2, equation 2).

    L(x) = −log ( exp(s · q(x) · d(z⁺)) / Σ_z exp(s · q(x) · d(z)) )

over all passages of a batch: each question's own positive, and the positives and hard negatives of all the others. A
passage of another question that answers this one too is no negative and is left out. s is 1 in the paper; where vectors
have length 1 their products lie too near each other to learn from, and s is larger (`encoder.UNIT_SCALE`).

B questions, N passages of the batch, D vector size.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.rag.qa_metrics import answer_tokens


def dpr_nll(queries: Tensor, passages: Tensor, positives: Tensor, left_out: Tensor, scale: float = 1.0) -> Tensor:
    """−log p(z⁺|x) of each question, (B,) fp32.

    Args:
        queries: q(x), (B, D).
        passages: d(z), (N, D).
        positives: (B,) int64: which passage answers each question.
        left_out: (B, N) bool: passages that are neither the positive nor a negative.
        scale: s.

    Raises:
        ArrieroError: the shapes do not fit, or a positive is left out.
    """
    if left_out.shape != (len(queries), len(passages)) or positives.shape != (len(queries),):
        shapes = f"{tuple(positives.shape)} and {tuple(left_out.shape)}"
        raise ArrieroError(f"expected positives (B,) and left_out (B, N), got {shapes}")
    if left_out.gather(1, positives[:, None]).any():
        raise ArrieroError("a question's own positive is left out: there would be nothing to learn")
    scores = scale * queries.float() @ passages.float().T  # (B, N)
    scores = scores.masked_fill(left_out, -torch.inf)
    return torch.nn.functional.cross_entropy(scores, positives, reduction="none")


def false_negatives(texts: Sequence[str], positives: Sequence[int], answers: Sequence[Sequence[str]]) -> Tensor:
    """Which passages of a batch answer a question without being its positive: (B, N) bool.

    Args:
        texts: (N,) passages.
        positives: (B,) the number of each question's positive.
        answers: (B,) right answers of each question.
    """
    words = [f" {' '.join(_tokens(text))} " for text in texts]
    wanted = [[f" {' '.join(tokens)} " for each in own if (tokens := _tokens(each))] for own in answers]
    return torch.tensor(
        [
            [
                n != positive and (text == texts[positive] or any(answer in words[n] for answer in own))
                for n, text in enumerate(texts)
            ]
            for positive, own in zip(positives, wanted, strict=True)
        ],
        dtype=torch.bool,
    ).view(len(positives), len(texts))


@lru_cache(maxsize=65536)
def _tokens(text: str) -> tuple[str, ...]:
    return tuple(answer_tokens(text))


def repetitions(texts: Sequence[str], own: range) -> Tensor:
    """Which passages only repeat another of the batch: (N,) bool.

    Of equal passages one counts, as if one process had them all; one of this process, where gradients flow, if it has
    one, else the first.

    Args:
        texts: (N,) passages of all ranks.
        own: the numbers of this rank's.
    """
    kept = {text: n for n, text in reversed([*enumerate(texts)])}
    kept |= {texts[n]: n for n in reversed(own)}
    return torch.tensor([kept[text] != n for n, text in enumerate(texts)], dtype=torch.bool)


def gather_vectors(own: Tensor, sizes: Sequence[int], rank: int) -> Tensor:
    """The vectors of all ranks, (Σ sizes, D), in their order; gradients flow through this rank's own ones alone.

    So each rank's gradient lacks what its passages are to the other ranks' questions, as in DPR's own code: the sum
    over the ranks moves every passage by the questions of its own rank.

    Args:
        own: (sizes[rank], D).
        sizes: how many vectors each rank has.
        rank: this one.
    """
    if len(sizes) == 1:
        return own
    padded = own.new_zeros(max(sizes), own.shape[1])
    padded[: len(own)] = own.detach()
    every = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(every, padded)
    parts = [part[:size] for part, size in zip(every, sizes, strict=True)]
    parts[rank] = own
    return torch.cat(parts)
