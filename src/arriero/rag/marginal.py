"""RAG's two likelihoods and what they say of the documents, in log space (Lewis et al., arXiv 2005.11401, section 2.1).

    RAG-Sequence   p(y|x) = Σ_z p(z|x) Π_i p(y_i | x, z, y_<i)        one document stands behind the whole answer
    RAG-Token      p(y|x) = Π_i Σ_z p(z|x) p(y_i | x, z, y_<i)        each token may lean on another one

The prior p(z|x) is the softmax of the inner products of the k documents that were retrieved, at no temperature. The
generator's log-probabilities are summed as they are: divided by a length they would be no probabilities, and could not
be summed over documents. What is masked is left out by its mask, never by its id, and may hold anything, NaN too.

B questions, k documents, T tokens of an answer.
"""

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError


def document_prior(scores: Tensor, present: Tensor | None = None) -> Tensor:
    """log p(z|x) (B, k) in fp32, of the inner products (B, k) of query and documents.

    Args:
        scores: d(z) · q(x).
        present: (B, k) bool, where a question has fewer than k documents; the others get −∞. All by default.

    Raises:
        ArrieroError: a question has no document.
    """
    if present is not None:
        if not present.any(dim=-1).all():
            raise ArrieroError("expected a document or more for each question: there is nothing to sum over")
        scores = torch.where(present, scores, -torch.inf)
    return torch.log_softmax(scores.float(), dim=-1)


def sequence_joint(prior: Tensor, token_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log p(z|x) + log p(y|x, z), (B, k): RAG-Sequence before the sum over documents.

    Args:
        prior: log p(z|x), (B, k).
        token_logprobs: log p(y_i | x, z, y_<i), (B, k, T).
        mask: (B, T) bool, the tokens that belong to the answer, the one that ends it included.
    """
    _check(prior, token_logprobs, mask)
    return prior.float() + _masked(token_logprobs, mask).sum(-1)


def sequence_likelihood(prior: Tensor, token_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log p(y|x) of RAG-Sequence (B,); the arguments of `sequence_joint`."""
    return sequence_joint(prior, token_logprobs, mask).logsumexp(-1)


def token_joint(prior: Tensor, token_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log p(z|x) + log p(y_i | x, z, y_<i), (B, k, T): RAG-Token before the sum over documents."""
    _check(prior, token_logprobs, mask)
    return prior.float()[..., None] + _masked(token_logprobs, mask)


def token_likelihood(prior: Tensor, token_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log p(y|x) of RAG-Token (B,); the arguments of `sequence_joint`."""
    each = token_joint(prior, token_logprobs, mask).logsumexp(-2)  # (B, T)
    return torch.where(mask, each, 0.0).sum(-1)


def sequence_posterior(prior: Tensor, token_logprobs: Tensor, mask: Tensor) -> Tensor:
    """p(z | x, y) (B, k): which document the answer rests on, by RAG-Sequence; what citations are weighted by."""
    return sequence_joint(prior, token_logprobs, mask).softmax(-1)


def token_posterior(prior: Tensor, token_logprobs: Tensor, mask: Tensor) -> Tensor:
    """p(z | x, y_<=i) (B, k, T) of each token by RAG-Token: the picture of the paper's figure 2; 0 where masked."""
    shares = token_joint(prior, token_logprobs, mask).softmax(-2)  # (B, k, T)
    return torch.where(mask[:, None], shares, 0.0)


def _masked(token_logprobs: Tensor, mask: Tensor) -> Tensor:
    """In fp32, 0 where masked; `where` and not a product, which a masked NaN would survive, its gradient too."""
    return torch.where(mask[:, None], token_logprobs, 0.0).float()


def _check(prior: Tensor, token_logprobs: Tensor, mask: Tensor) -> None:
    questions, documents, tokens = token_logprobs.shape if token_logprobs.dim() == 3 else (-1, -1, -1)
    if prior.shape != (questions, documents) or mask.shape != (questions, tokens) or mask.dtype != torch.bool:
        shapes = f"{tuple(prior.shape)}, {tuple(token_logprobs.shape)} and {mask.dtype} {tuple(mask.shape)}"
        raise ArrieroError(f"expected prior (B, k), token_logprobs (B, k, T) and a bool mask (B, T), got {shapes}")
