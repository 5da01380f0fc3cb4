"""RAG's likelihoods: against the formulas as numpy loops, by enumeration, in their gradients, and where they meet."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from arriero.common.errors import ArrieroError
from arriero.rag.marginal import (
    document_prior,
    sequence_likelihood,
    sequence_posterior,
    token_likelihood,
    token_posterior,
)

B, K, T = 3, 4, 5


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(B, K, generator=generator, dtype=torch.float64) * 3
    logprobs = -torch.rand(B, K, T, generator=generator, dtype=torch.float64) * 4
    lengths = torch.tensor([5, 1, 3])
    return scores, logprobs, torch.arange(T)[None] < lengths[:, None]


def by_the_formulas(scores, logprobs, mask):
    """Section 2.1, written out in numpy."""
    sequence, token = np.zeros(B), np.zeros(B)
    for b in range(B):
        prior = np.exp(scores[b]) / np.exp(scores[b]).sum()
        real = [i for i in range(T) if mask[b, i]]
        sequence[b] = sum(prior[z] * np.prod([np.exp(logprobs[b, z, i]) for i in real]) for z in range(K))
        token[b] = np.prod([sum(prior[z] * np.exp(logprobs[b, z, i]) for z in range(K)) for i in real])
    return np.log(sequence), np.log(token)


def test_both_likelihoods_are_the_paper_s_formulas(parts):
    scores, logprobs, mask = parts
    sequence, token = by_the_formulas(*(part.numpy() for part in parts))
    prior = document_prior(scores)
    np.testing.assert_allclose(sequence_likelihood(prior, logprobs, mask), sequence, atol=1e-6)
    np.testing.assert_allclose(token_likelihood(prior, logprobs, mask), token, atol=1e-6)


def test_over_all_answers_of_a_length_both_sum_to_one():
    """A vocabulary of 3, all 27 answers of 3 tokens, each document with its own table of p(y_i | y_<i)."""
    generator = torch.Generator().manual_seed(0)
    tables = {}

    def table(z, before):
        if (z, before) not in tables:
            tables[z, before] = torch.log_softmax(torch.randn(3, generator=generator), 0)
        return tables[z, before]

    prior = document_prior(torch.randn(1, 2, generator=generator))
    totals = torch.zeros(2)
    for answer in itertools.product(range(3), repeat=3):
        rows = [[table(z, answer[:i])[answer[i]] for i in range(3)] for z in range(2)]
        logprobs, mask = torch.tensor(rows)[None], torch.ones(1, 3, dtype=torch.bool)
        totals[0] += sequence_likelihood(prior, logprobs, mask)[0].exp()
        totals[1] += token_likelihood(prior, logprobs, mask)[0].exp()
    # RAG-Token's factors depend on y_<i alone once the documents are summed out, so it sums to one as well
    torch.testing.assert_close(totals, torch.ones(2), rtol=1e-5, atol=1e-5)


def test_answers_of_one_token_are_equally_likely_by_both_and_move_the_documents_scores(parts):
    scores, logprobs, _ = parts
    mask = torch.arange(T)[None].expand(B, T) < 1
    found = []
    for likelihood in (sequence_likelihood, token_likelihood):
        own = scores.clone().requires_grad_()
        value = likelihood(document_prior(own), logprobs, mask)
        value.sum().backward()
        found.append((value.detach(), own.grad))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1].abs().min() > 0


@pytest.mark.parametrize("likelihood", [sequence_likelihood, token_likelihood])
def test_gradients_in_double_precision(parts, likelihood, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # fp32 sums would hide the difference quotient
    scores, logprobs, mask = parts
    inputs = scores.clone().requires_grad_(), logprobs.clone().requires_grad_()
    assert gradcheck(lambda s, lp: likelihood(document_prior(s), lp, mask), inputs)


def test_the_prior_is_added_once_whatever_the_answer_s_length(parts):
    """A known defect: the prior at one position of the token sum, so that masks or lengths lose or repeat it."""
    scores, _, _ = parts
    prior = document_prior(scores)
    sure = torch.zeros(B, K, T)
    for length in (1, 3, 5):
        mask = torch.arange(T)[None].expand(B, T) < length
        torch.testing.assert_close(sequence_likelihood(prior, sure, mask), torch.zeros(B), atol=1e-6, rtol=0)


def test_masked_tokens_count_for_nothing_even_if_they_are_nan(parts):
    scores, logprobs, mask = parts
    dirty = torch.where(mask[:, None], logprobs, torch.nan).requires_grad_()
    prior = document_prior(scores)
    for likelihood in (sequence_likelihood, token_likelihood):
        value = likelihood(prior, dirty, mask)
        torch.testing.assert_close(value, likelihood(prior, logprobs, mask))
        (slope,) = torch.autograd.grad(value.sum(), dirty)
        assert slope.isfinite().all()


def test_posteriors_are_bayes_rule(parts):
    scores, logprobs, mask = parts
    prior = document_prior(scores)
    joint = prior[..., None].exp() * logprobs.exp()
    expected = torch.where(mask[:, None], joint / joint.sum(1, keepdim=True), 0.0)
    torch.testing.assert_close(token_posterior(prior, logprobs, mask).double(), expected.double(), atol=1e-6, rtol=1e-5)
    weights = prior.exp() * torch.where(mask[:, None], logprobs, 0.0).sum(-1).exp()
    found = sequence_posterior(prior, logprobs, mask)
    torch.testing.assert_close(found.double(), (weights / weights.sum(1, keepdim=True)).double(), atol=1e-6, rtol=1e-5)


def test_missing_documents_have_no_share(parts):
    scores, logprobs, mask = parts
    present = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    prior = document_prior(scores, present)
    assert prior[1].exp().sum() == pytest.approx(1)
    assert (sequence_posterior(prior, logprobs, mask)[2] == torch.tensor([1.0, 0, 0, 0])).all()
    own = scores.clone().requires_grad_()
    token_likelihood(document_prior(own, present), logprobs, mask).sum().backward()
    assert own.grad.isfinite().all()
    assert own.grad[1, 2:].abs().sum() == 0


def test_far_apart_scores_neither_overflow_nor_vanish():
    prior = document_prior(torch.tensor([[3e4, -3e4]]))
    value = sequence_likelihood(prior, torch.full((1, 2, 1), -1e4), torch.ones(1, 1, dtype=torch.bool))
    assert math.isclose(value.item(), -1e4, rel_tol=1e-6)


def test_no_documents_and_shapes_that_do_not_fit_are_errors(parts):
    scores, logprobs, mask = parts
    with pytest.raises(ArrieroError, match="a document or more"):
        document_prior(scores, torch.zeros(B, K, dtype=torch.bool))
    with pytest.raises(ArrieroError, match="bool mask"):
        sequence_likelihood(document_prior(scores), logprobs, mask.long())
