"""A tensor that is made again in the backward pass: not kept, made once, and the gradients are the same."""

import weakref

import torch

from arriero.kernels.linear import linear
from arriero.kernels.recompute import recomputed


def test_gradients_are_the_same_and_the_tensor_is_made_once_for_all_who_need_it():
    torch.manual_seed(0)
    x, first, second = torch.randn(2, 3, 5, requires_grad=True), torch.randn(4, 5), torch.randn(4, 5)
    weights = [first.requires_grad_(), second.requires_grad_()]
    made = []

    def make() -> torch.Tensor:
        made.append(True)
        return x.tanh()

    def outputs(again: bool) -> torch.Tensor:
        y = x.tanh()
        if not again:
            return sum(linear(y, weight).square().sum() for weight in weights)
        with recomputed(y, make):
            products = [linear(y, weight) for weight in weights]
        return sum(product.square().sum() for product in products)

    wanted = torch.autograd.grad(outputs(False), (x, *weights))
    got = torch.autograd.grad(outputs(True), (x, *weights))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert len(made) == 1


def test_the_tensor_is_let_go_after_the_forward_pass_and_after_the_backward_pass():
    x = torch.randn(3, 5, requires_grad=True)
    weight = torch.randn(4, 5, requires_grad=True)
    seen = []

    def make() -> torch.Tensor:
        again = x.exp() + 1  # exp keeps its own result; the sum is nobody's
        seen.append(weakref.ref(again))
        return again

    y = x.exp() + 1
    seen.append(weakref.ref(y))
    with recomputed(y, make):
        out = linear(y, weight)
    del y
    assert seen[0]() is None
    out.sum().backward()
    assert len(seen) == 2
    assert seen[1]() is None


def test_other_tensors_are_kept_as_ever():
    x, other = (torch.randn(3, requires_grad=True) for _ in range(2))
    y = x + 1
    with recomputed(y, lambda: x + 1):
        out = (other * y).sum()
    gx, gother = torch.autograd.grad(out, (x, other))
    assert torch.equal(gx, other)
    assert torch.equal(gother, y)
