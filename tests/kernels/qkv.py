"""Random q, k, v, and the two comparisons that every implementation's tests make."""

from collections.abc import Callable

import torch
from torch import Tensor

from arriero.kernels.options import Options
from arriero.kernels.reference import attention_reference

Attention = Callable[[Tensor, Tensor, Tensor, Options], Tensor]


def random_qkv(
    batch: int,
    queries: int,
    keys: int,
    heads: int,
    kv_heads: int,
    dim: int,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Leaves that require gradients; the same numbers, rounded, in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, queries, heads, dim), (batch, keys, kv_heads, dim), (batch, keys, kv_heads, dim))
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def check_exact(
    implementation: Callable[[Tensor, Tensor, Tensor, Options], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: Options,
) -> Tensor:
    """In fp64, output and gradients equal the reference's; returns the output."""
    out, expected = implementation(q, k, v, options), attention_reference(q, k, v, options)[0]
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-8)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    got = torch.autograd.grad(out, (q, k, v), weight)
    wanted = torch.autograd.grad(expected, (q, k, v), weight)
    for gradient, reference in zip(got, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-10, rtol=1e-8)
    return out
