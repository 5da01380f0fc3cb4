"""Held-out examples: every rank takes its share, and the mean is that of all of them together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from arriero.train.held_out import mean_loss, own_portions
from arriero.train.loop import Loss
from arriero.train.parallel import Layout


@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 4))
def test_the_ranks_portions_are_all_examples_once_and_equally_many(count: int, rows: int, world: int) -> None:
    portions = [list(own_portions(count, rows=rows, rank=rank, world=world)) for rank in range(world)]
    assert {len(of_rank) for of_rank in portions} == {-(-count // (rows * world))}
    taken = [number for of_rank in portions for portion in of_rank for number in portion]
    assert sorted(taken) == list(range(count))
    assert all(len(portion) <= rows for of_rank in portions for portion in of_rank)


def squares(model: nn.Module, batch: list[float]) -> Loss:
    """The loss of each number is its square times the weight; half of it is a metric. Only for a model that rests."""
    assert not model.training
    total = (torch.tensor(batch) ** 2).sum() * model.weight  # type: ignore[operator]
    return Loss(total.squeeze(), len(batch), {"half": total.squeeze() / 2, "ones": float(len(batch))})


@pytest.fixture
def model() -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    return model


def test_the_mean_is_over_examples_and_not_over_batches(model: nn.Linear) -> None:
    means, count = mean_loss(model, squares, [[1.0, 2.0, 3.0], [], [4.0]], Layout(), "half", "ones")
    assert (means, count) == ({"loss": 15.0, "half": 7.5, "ones": 1.0}, 4)


def test_the_model_learns_on_where_it_was(model: nn.Linear) -> None:
    mean_loss(model, squares, [[1.0]], Layout())
    assert model.training
    assert model.weight.grad is None


def test_no_examples_have_no_loss(model: nn.Linear) -> None:
    assert mean_loss(model, squares, [], Layout(), "half") == ({"loss": 0.0, "half": 0.0}, 0)
