"""The loss of end-to-end training (Lewis et al., arXiv 2005.11401, section 2.4): −log p(y|x), documents marginalised.

Query encoder and generator learn together. The index proposes documents and takes no part in the gradient: the scores
are computed again as q(x) · d(z) from the documents' stored vectors, which stay as they are. The loss is summed over
questions, each counting once, however long its answer is, as in the paper.

B questions, k documents, D vector size, T tokens of an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.rag.decoding_config import RagKind
from arriero.rag.generator import Generator, RagPrompt
from arriero.rag.marginal import document_prior, sequence_likelihood, token_likelihood

LIKELIHOODS = {"sequence": sequence_likelihood, "token": token_likelihood}


@dataclass(frozen=True)
class Retrieved:
    """What was found for the questions of a batch; a question with fewer than k documents has empty places."""

    prompts: Sequence[Sequence[RagPrompt]]
    """(B, up to k) each question with each of its documents."""
    vectors: Tensor
    """d(z), (B, k, D) fp32; what has no document may be anything finite."""
    present: Tensor
    """(B, k) bool: where there is a document."""


def document_scores(queries: Tensor, vectors: Tensor, scale: float = 1.0) -> Tensor:
    """d(z) · q(x) of each question's documents, (B, k): queries (B, D) at the length `scale`, vectors (B, k, D)."""
    return torch.einsum("bd,bkd->bk", scale * queries.float(), vectors)


def marginal_nll(
    generator: Generator, kind: RagKind, scores: Tensor, found: Retrieved, targets: Sequence[Sequence[int]]
) -> Tensor:
    """−log p(y|x) of each question, (B,) fp32, differentiable by the scores (B, k) and the generator's parameters.

    Args:
        generator: p(y_i | x, z, y_<i).
        kind: over what is summed: RAG-Sequence's whole answers, or RAG-Token's tokens.
        scores: d(z) · q(x); from the retriever, or from anyone.
        found: the documents; its vectors play no part here.
        targets: (B,) tokens of each answer, with the one that ends it; −100 marks tokens without a loss, at the end.

    Raises:
        ArrieroError: an answer has no token with a loss, or a question no document.
    """
    learnt = [[token for token in target if token != -100] for target in targets]
    if not all(learnt):
        raise ArrieroError("expected a token or more of each answer: everything is masked")
    mask = torch.arange(max(map(len, learnt))) < torch.tensor([len(target) for target in learnt])[:, None]  # (B, T)
    rows = [(b, z) for b, prompts in enumerate(found.prompts) for z in range(len(prompts))]
    flat = generator.logprobs([found.prompts[b][z] for b, z in rows], [learnt[b] for b, _ in rows])  # (rows, T)
    questions, documents = (torch.tensor(index, device=flat.device) for index in zip(*rows, strict=True))
    logprobs = flat.new_zeros(*scores.shape, flat.shape[-1]).index_put((questions, documents), flat)  # (B, k, T)
    prior = document_prior(scores, found.present.to(scores.device)).to(flat.device)  # (B, k)
    return -LIKELIHOODS[kind](prior, logprobs, mask.to(flat.device))
