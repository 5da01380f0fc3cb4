"""The product is the same through either library, in any shape, and gradients still flow."""

import pytest
import torch
import torch.nn.functional as F

from arriero.kernels.linear import linear, uses_onednn

SHAPES = [(5,), (1, 5), (16, 5), (2, 3, 5), (0, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_gradients_the_product_is_that_of_a_float64_matmul(shape, dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(shape).to(dtype), torch.randn(7, 5).to(dtype)
    with torch.inference_mode():
        product = linear(x, weight)
    assert product.shape == (*shape[:-1], 7)
    assert product.dtype == dtype
    bound = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(product.double(), x.double() @ weight.double().T, rtol=bound, atol=4 * bound)


def test_a_bias_is_added():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 5), torch.randn(7, 5), torch.randn(7)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))


@pytest.mark.parametrize("make", [lambda x: x.transpose(0, 1), lambda x: x[:, ::2], lambda x: x[:1].expand(3, 4, 5)])
def test_inputs_need_not_be_contiguous(make):
    torch.manual_seed(0)
    x, weight = make(torch.randn(3, 4, 5)), torch.randn(7, 5)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_gradients_are_those_of_float64(shape, biased):
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(s, requires_grad=True) for s in (shape, (7, 5), (7,)))
    inputs = (x, weight, bias) if biased else (x, weight)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    upstream = torch.randn(*shape[:-1], 7)
    got = torch.autograd.grad(linear(*inputs), inputs, upstream)
    wanted = torch.autograd.grad(F.linear(*exact), exact, upstream.double())
    for gradient, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(gradient.double(), right, rtol=1e-5, atol=1e-5)


def test_gradients_are_computed_for_what_needs_them_only():
    x, weight = torch.randn(3, 5), torch.randn(7, 5, requires_grad=True)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(7, 5))
    x.requires_grad_()
    frozen = weight.detach()
    linear(x, frozen).sum().backward()
    torch.testing.assert_close(x.grad, frozen.sum(0).expand(3, 5))
    bias = torch.zeros(7, requires_grad=True)
    (linear(x.detach(), frozen, bias) * 2).sum().backward()
    torch.testing.assert_close(bias.grad, torch.full((7,), 6.0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_a_frozen_weight_s_gradients_are_those_of_float64(shape, biased):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape, requires_grad=True), torch.randn(7, 5), torch.randn(7, requires_grad=True)
    inputs = (x, bias) if biased else (x,)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    upstream = torch.randn(*shape[:-1], 7)
    got = torch.autograd.grad(linear(x, weight, bias if biased else None), inputs, upstream)
    product = F.linear(exact[0], weight.double(), exact[1] if biased else None)
    wanted = torch.autograd.grad(product, exact, upstream.double())
    for gradient, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(gradient.double(), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("learns", [True, False])
def test_the_input_is_kept_for_a_weight_that_learns_only(learns):
    x, weight = torch.randn(16, 5, requires_grad=True), torch.randn(7, 5, requires_grad=learns)
    kept: list[int] = []

    def keep(tensor):
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        linear(x, weight)
    assert weight.data_ptr() in kept
    assert (x.data_ptr() in kept) == learns


def test_expanded_and_transposed_gradients_are_taken_as_they_come():
    x, weight = torch.randn(4, 3, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    got = torch.autograd.grad(linear(x, weight).transpose(0, 1).sum(), (x, weight))
    wanted = torch.autograd.grad(F.linear(x, weight).sum(), (x, weight))
    torch.testing.assert_close(got, wanted)


def test_autocast_is_left_to_pytorch():
    x, weight = torch.randn(3, 5), torch.randn(7, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


def test_other_dtypes_and_devices_are_left_to_pytorch():
    x = torch.zeros(2, 5)
    assert uses_onednn(x, x) == torch.backends.mkldnn.is_available()
    assert not uses_onednn(x.double(), x.double())
    assert not uses_onednn(x.to("meta"), x.to("meta"))
