"""The losses of reward models: by hand, at their extremes, and where nothing is told."""

import math

import pytest
import torch

from arriero.align.reward_loss import MARGINS, UNKNOWN, margin_of, ranking_loss, safety_labels, safety_loss

DEGREES = ["significantly better", "better", "slightly better", "negligibly better"]


@pytest.mark.parametrize(("table", "expected"), [("small", [1, 2 / 3, 1 / 3, 0]), ("large", [3, 2, 1, 0])])
def test_margins_are_the_paper_s(table, expected):
    assert [margin_of(degree, table) for degree in DEGREES] == pytest.approx(expected)
    assert list(MARGINS[table]) == DEGREES


def test_without_a_table_or_a_degree_there_is_no_margin():
    assert [margin_of(degree, "none") for degree in DEGREES] == [0.0] * 4
    assert margin_of(None, "large") == 0.0


def test_the_ranking_loss_is_the_paper_s_formula():
    chosen, rejected, margins = torch.tensor([1.2, -0.3]), torch.tensor([0.7, 0.4]), torch.tensor([1.0, 0.0])
    expected = [-math.log(1 / (1 + math.exp(-(1.2 - 0.7 - 1)))), -math.log(1 / (1 + math.exp(-(-0.3 - 0.4))))]
    assert ranking_loss(chosen, rejected, margins).tolist() == pytest.approx(expected, abs=1e-6)


def test_equal_scores_cost_log_2_and_move_both_responses():
    scores = torch.zeros(2, requires_grad=True)
    loss = ranking_loss(scores[:1], scores[1:], torch.zeros(1))
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert scores.grad.tolist() == pytest.approx([-0.5, 0.5])


def test_scores_far_apart_neither_overflow_nor_lose_their_gradient():
    scores = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = ranking_loss(scores[:1], scores[1:], torch.tensor([3.0]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(20003.0)
    assert scores.grad.tolist() == [-1.0, 1.0]


def test_a_larger_margin_asks_for_more_distance():
    losses = ranking_loss(torch.ones(3), torch.zeros(3), torch.tensor([0.0, 1.0, 3.0]))
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize(
    ("safety", "labels"),
    [("chosen safe", (1, 0)), ("both safe", (1, 1)), ("both unsafe", (0, 0)), (None, (UNKNOWN, UNKNOWN))],
)
def test_the_three_bins_label_both_responses(safety, labels):
    assert safety_labels(safety) == labels


def test_the_safety_loss_is_cross_entropy_and_nothing_where_nothing_is_told():
    scores = torch.tensor([2.0, -1.0, float("nan")], requires_grad=True)
    losses = safety_loss(scores, torch.tensor([1, 0, UNKNOWN]))
    expected = [math.log1p(math.exp(-2.0)), math.log1p(math.exp(-1.0)), 0.0]
    assert losses.tolist() == pytest.approx(expected, abs=1e-6)
