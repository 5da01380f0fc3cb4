"""The kernels behind autograd, and what they refuse."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from arriero.kernels import flash
from arriero.kernels.flash import attention_flash, why_not_triton
from arriero.kernels.options import Options
from arriero.kernels.reference import attention_reference
from tests.kernels.qkv import random_qkv


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)], ids=["output", "log-sum", "both"])
def test_both_results_are_differentiable(triton_device, weights):
    q, k, v = (x.detach().to(triton_device) for x in random_qkv(2, 20, 24, 4, 2, 16, torch.float32))
    options = Options(window=12)
    gradients = []
    for implementation in (attention_flash, attention_reference):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        loss = sum(
            weight * result.square().sum()
            for weight, result in zip(weights, implementation(*leaves, options), strict=True)
            if weight
        )
        gradients.append(torch.autograd.grad(loss, leaves, materialize_grads=True))
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("scale", [300.0, -300.0])
def test_the_backward_pass_weighs_as_the_forward_pass_did_however_large_the_scores(triton_device, scale):
    q, k, v = (x.detach().to(triton_device) for x in random_qkv(1, 40, 16, 1, 1, 16, torch.float32))
    one_key = torch.arange(16, device=q.device)[None] == 3
    q[..., 1:] = 0  # products of one term each: the same bits in every order of addition
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out, _ = attention_flash(*leaves, Options(causal=False, scale=scale, key_mask=one_key))
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).to(q)
    _, _, grad_v = torch.autograd.grad(out, leaves, upstream)
    torch.testing.assert_close(grad_v[:, 3], upstream.sum(1), atol=5e-6, rtol=1e-6)  # each weight is 1


@pytest.mark.parametrize("interpret", ["0", "1"])
def test_attention_brings_no_triton_and_the_kernels_ask_no_driver_when_they_are_imported(interpret):
    code = (
        "import sys, arriero.kernels.attention, arriero.kernels.paged; assert 'triton' not in sys.modules; "
        "import arriero.kernels.flash, arriero.kernels.flash_backward, arriero.kernels.flash_decode; "
        "import triton, torch; assert set(vars(triton.runtime.driver).values()) == {None}; "
        "assert not torch.cuda.is_initialized()"
    )
    environment = os.environ | {"TRITON_INTERPRET": interpret}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_second_derivatives_are_refused(triton_device):
    q, k, v = (x.detach().to(triton_device).requires_grad_() for x in random_qkv(1, 4, 4, 1, 1, 16, torch.float32))
    out, _ = attention_flash(q, k, v, Options())
    (gradient,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_what_the_kernels_refuse(monkeypatch):
    monkeypatch.setattr(flash, "INTERPRETED", True)
    assert why_not_triton(torch.empty(1, 1, 1, 256)) is None
    assert "up to 256, not 257" in why_not_triton(torch.empty(1, 1, 1, 257))
    assert "float64" in why_not_triton(torch.empty(1, 1, 1, 16, dtype=torch.float64))
    assert "interpreter" in why_not_triton(torch.empty(1, 1, 1, 16, dtype=torch.bfloat16))
    assert "meta" in why_not_triton(torch.empty(1, 1, 1, 16, device="meta"))
    monkeypatch.setattr(flash, "INTERPRETED", False)
    assert "CUDA" in why_not_triton(torch.empty(1, 1, 1, 16))
