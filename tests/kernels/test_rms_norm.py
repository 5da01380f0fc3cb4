"""RMSNorm against PyTorch's own, forward and backward, and what it keeps."""

import pytest
import torch
import torch.nn.functional as F

from arriero.kernels.rms_norm import rms_norm


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).requires_grad_()


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("shape", [(2, 5, 24), (7, 24), (1, 1, 24)])
def test_derivatives_are_pytorchs(shape, dtype, atol):
    x, weight, above = draw(*shape, dtype=dtype), draw(24, dtype=dtype), draw(*shape, 1, dtype=dtype)[..., 0].detach()
    ours, theirs = rms_norm(x, weight, 1e-5), F.rms_norm(x, (24,), weight, 1e-5)
    assert torch.equal(ours, theirs)
    for got, expected in zip(
        torch.autograd.grad(ours, (x, weight), above), torch.autograd.grad(theirs, (x, weight), above), strict=True
    ):
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected, atol=atol, rtol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("learns", [True, False])
def test_it_is_the_papers_formula_in_fp64_with_epsilon_below_the_root_and_the_mean_in_fp32(dtype, size, learns):
    x, weight = (size * draw(6, 96).detach()).to(dtype), draw(96).detach().to(dtype).requires_grad_(learns)
    mean = x.double().square().mean(-1, keepdim=True)
    expected = (x.double() / (mean + 1e-5).sqrt() * weight.double()).detach()
    ours = rms_norm(x, weight, 1e-5)
    assert ours.dtype == dtype
    assert (ours.double() - expected).abs().max() <= 2 * torch.finfo(dtype).eps * expected.abs().max()


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_a_frozen_input_gets_no_gradient(frozen):
    tensors = {"x": draw(3, 8), "weight": draw(8)}
    tensors[frozen].requires_grad_(False)
    rms_norm(tensors["x"], tensors["weight"], 1e-5).sum().backward()
    assert {name for name, tensor in tensors.items() if tensor.grad is None} == {frozen}


def test_keeps_its_input_alone():
    kept = []
    x, weight = draw(4, 16), draw(16)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        rms_norm(x, weight, 1e-5)
    assert set(kept) == {x.data_ptr(), weight.data_ptr()}


def test_without_gradients_it_is_pytorchs():
    x, weight = draw(4, 16), draw(16)
    with torch.no_grad():
        assert torch.equal(rms_norm(x, weight, 1e-5), F.rms_norm(x, (16,), weight, 1e-5))
