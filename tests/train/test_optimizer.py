"""LLaMA's AdamW, and the one pass that divides and clips."""

import pytest
import torch
from torch import nn

from arriero.common.errors import ArrieroError
from arriero.train.optimizer import build_optimizer, scale_gradients
from arriero.train.optimizer_config import OptimizerConfig


def test_matrices_decay_and_norms_do_not():
    model = nn.Sequential(nn.Linear(3, 3), nn.RMSNorm(3))
    optimizer = build_optimizer(model, OptimizerConfig())
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "1.weight": 0.0,
    }
    assert optimizer.defaults["betas"] == (0.9, 0.95)


def test_what_is_not_said_is_llamas():
    config = OptimizerConfig()
    assert (config.lr, config.beta1, config.beta2, config.weight_decay, config.clip) == (3e-4, 0.9, 0.95, 0.1, 1.0)


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 3)
    model.weight.requires_grad_(False)
    assert [len(group["params"]) for group in build_optimizer(model, OptimizerConfig()).param_groups] == [1]
    with pytest.raises(ArrieroError, match="nothing to train"):
        build_optimizer(model.requires_grad_(False), OptimizerConfig())


@pytest.mark.parametrize(("clip", "kept"), [(10.0, 1.0), (0.5, 0.5 / 3)])
def test_gradients_are_divided_by_the_count_and_then_clipped(clip, kept):
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([4.0, 8.0]), torch.tensor([8.0])
    norm = scale_gradients(parameters, count=4, clip=clip)
    assert norm.item() == pytest.approx(3.0)  # of (1, 2, 2)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([1.0, 2.0]) * kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr: expected a number above 0, got 0.0"),
        ({"clip": float("nan")}, "clip: expected a number above 0"),
        ({"beta2": 1.0}, "beta2: expected a number from 0 up to 1, got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay: expected 0 or more"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ArrieroError, match=message):
        OptimizerConfig(**change)


def test_parameters_whose_names_begin_so_learn_at_their_own_rate():
    model = nn.ModuleDict({"query": nn.Linear(2, 2), "generator": nn.Linear(2, 2)})
    optimizer = build_optimizer(model, OptimizerConfig(), {"query.": 0.1})
    factors = {id(p): group["factor"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert factors[id(parameter)] == (0.1 if name.startswith("query.") else 1.0)
