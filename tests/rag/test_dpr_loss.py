"""DPR's loss over all passages of a batch: its formula, its gradients, and what is no negative."""

import math

import numpy as np
import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.rag.dpr_loss import dpr_nll, false_negatives, gather_vectors, repetitions

POSITIVES = torch.tensor([0, 2, 3])


def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (3, 6))


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_the_loss_is_the_formula_over_all_that_is_not_left_out(scale):
    queries, passages = vectors()
    left_out = torch.zeros(3, 6, dtype=torch.bool)
    left_out[1, 4] = left_out[2, 0] = True
    found = dpr_nll(queries, passages, POSITIVES, left_out, scale)
    for b, positive in enumerate(POSITIVES.tolist()):
        scores = scale * passages.numpy() @ queries[b].numpy()
        total = sum(math.exp(score) for n, score in enumerate(scores) if not left_out[b, n])
        assert float(found[b]) == pytest.approx(math.log(total) - scores[positive], rel=1e-5, abs=1e-5)


def test_gradients_reach_queries_and_passages(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)  # in double precision
    queries, passages = (each.requires_grad_() for each in vectors())
    left_out = torch.zeros(3, 6, dtype=torch.bool)
    left_out[0, 5] = True
    assert torch.autograd.gradcheck(lambda q, d: dpr_nll(q, d, POSITIVES, left_out), (queries, passages))


def test_what_also_answers_is_no_negative_and_the_own_positive_is_kept():
    texts = ["Llamas carry 30 kg.", "Mules carry 90 kg.", "Up to 30 kg, they say.", "300 kg", "Llamas carry 30 kg."]
    found = false_negatives(texts, [0, 1], [["30 kg"], ["90 kg", ""]])
    assert found.tolist() == [[False, False, True, False, True], [False] * 5]


def test_a_positive_that_is_left_out_and_shapes_that_do_not_fit_are_refused():
    queries, passages = vectors()
    left_out = torch.zeros(3, 6, dtype=torch.bool)
    left_out[1, 2] = True
    with pytest.raises(ArrieroError, match="own positive is left out"):
        dpr_nll(queries, passages, POSITIVES, left_out)
    with pytest.raises(ArrieroError, match="left_out"):
        dpr_nll(queries, passages, POSITIVES, left_out[:, :5])


def test_of_equal_passages_one_counts_and_of_ours_if_we_have_it():
    texts = ["a", "b", "a", "c", "b", "a", "a"]
    assert repetitions(texts, range(2)).tolist() == [False, False, True, False, True, True, True]
    assert repetitions(texts, range(2, 4)).tolist() == [True, False, False, False, True, True, True]
    assert repetitions(texts, range(5, 7)).tolist() == [True, False, True, False, True, False, True]
    assert not repetitions(["a", "b"], range(2)).any()


def test_one_process_needs_nobody_else_s_vectors():
    own = torch.ones(2, 3, requires_grad=True)
    assert gather_vectors(own, [2], 0) is own
    assert np.isfinite(own.detach().numpy()).all()
