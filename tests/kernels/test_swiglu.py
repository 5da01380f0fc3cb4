"""SwiGLU's product equals its formula, and keeps two tensors for its gradients."""

import torch
import torch.nn.functional as F

from arriero.kernels.swiglu import swiglu


def test_gradients_are_right():
    torch.manual_seed(0)
    a, b = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(swiglu, (a, b))
    torch.testing.assert_close(swiglu(a, b), F.silu(a) * b)
    with torch.no_grad():
        torch.testing.assert_close(swiglu(a, b), F.silu(a) * b)


def test_keeps_its_two_inputs_only():
    a, b = (torch.randn(3, 5, requires_grad=True) for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()), lambda x: x):
        swiglu(a, b)
    assert kept == [a.data_ptr(), b.data_ptr()]
