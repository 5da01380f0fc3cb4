"""PyTorch's attention behind our options, against the reference, at the shapes that others get wrong."""

from itertools import product

import pytest
import torch
from torch import Tensor

from arriero.kernels.block_mask import BlockMask, butterfly
from arriero.kernels.documents import Documents
from arriero.kernels.options import Options
from arriero.kernels.reference import attention_reference
from arriero.kernels.sdpa import attention_sdpa, why_not_sdpa
from tests.kernels.largest import LargestTensor
from tests.kernels.qkv import check_exact, random_qkv


def check(q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
    return check_exact(attention_sdpa, q, k, v, Options(**options))


@pytest.mark.parametrize("dim", [16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256])
def test_every_head_dim_is_used_in_full(dim):
    check(*random_qkv(2, 9, 9, 4, 2, dim))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (1, 20), (5, 20), (20, 5), (17, 17), (64, 65), (65, 64), (130, 131)]
)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
def test_lengths_and_groupings(queries, keys, heads, kv_heads, causal):
    check(*random_qkv(2, queries, keys, heads, kv_heads, 16), causal=causal)


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("causal", [True, False])
def test_rows_have_their_own_number_of_keys(queries, causal):
    lengths = torch.tensor([9, 4, 0, 6, 1])
    q, k, v = random_qkv(5, queries, 9, 6, 3, 8)
    out = check(q, k, v, causal=causal, key_lengths=lengths)
    assert (out[2] == 0).all()
    for row, length in enumerate(lengths.tolist()):
        if length:
            own = slice(row, row + 1)
            alone = attention_sdpa(q[own], k[own, :length], v[own, :length], Options(causal=causal))
            torch.testing.assert_close(out[own], alone)


@pytest.mark.parametrize(
    "rows",
    [
        [[3, 3, 3, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 2]],
        [[0, 0, 1, 1, 2, 2, 3, 3], [5, 5, 4, 4, 3, 3, 2, 2]],
        [[7] * 8, [0, 1, 2, 3, 4, 5, 6, 7]],
    ],
    ids=["unequal", "equal", "extremes"],
)
@pytest.mark.parametrize("causal", [True, False])
def test_documents_never_see_each_other(rows, causal):
    documents = Documents.from_segments(torch.tensor(rows))
    q, k, v = random_qkv(2, 8, 8, 4, 2, 16)
    out = check(q, k, v, causal=causal, documents=documents)
    for row, start, end in documents.spans:
        own = slice(row, row + 1), slice(start, end)
        torch.testing.assert_close(out[own], attention_sdpa(q[own], k[own], v[own], Options(causal=causal)))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 9), (4, 9), (9, 9), (9, 4)])
def test_windows_and_key_masks(queries, keys, causal):
    mask = torch.rand(2, keys, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[1] = False
    q, k, v = random_qkv(2, queries, keys, 4, 2, 16)
    check(q, k, v, causal=causal, window=3)
    out = check(q, k, v, causal=causal, key_mask=mask)
    assert (out[1] == 0).all()
    check(q, k, v, causal=causal, key_mask=mask, window=3, key_lengths=torch.tensor([keys, 2]))


def test_block_masks():
    q, k, v = random_qkv(1, 70, 70, 4, 2, 16)
    check(q, k, v, block_mask=BlockMask(butterfly(5), size=16))
    check(q, k, v, causal=False, block_mask=BlockMask(torch.rand(4, 5, 5).round().bool(), size=16))


@pytest.mark.parametrize("length", [100, 90], ids=["equal", "unequal"])
def test_packing_makes_nothing_quadratic_in_the_row(length):
    tokens = 4000
    q, k, v = random_qkv(1, tokens, tokens, 2, 1, 8)
    documents = Documents.from_segments(torch.arange(tokens)[None] // length)
    with LargestTensor() as seen:
        attention_sdpa(q, k, v, Options(documents=documents)).sum().backward()
    assert seen.numel <= q.numel()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 11), (6, 11), (11, 11)])
def test_non_contiguous_inputs(queries, keys, causal):
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(2, keys, 3, 4, 16, generator=generator, dtype=torch.float64)  # a fused QKV projection
    q, k, v = (x.requires_grad_() for x in (fused[:, :queries, 0], fused[:, :, 1], fused[:, :, 2]))
    check(q, k, v, causal=causal)
    heads_first = torch.randn(2, 4, keys, 16, generator=generator, dtype=torch.float64).transpose(1, 2).requires_grad_()
    check(q, heads_first, heads_first, causal=causal)
    reversed_dims = fused[..., ::2].flip(-1)
    check(*(reversed_dims[:, :, i].requires_grad_() for i in range(3)), causal=causal)


def test_scale_replaces_the_default():
    q, k, v = random_qkv(1, 5, 5, 2, 2, 16)
    check(q, k, v, scale=0.7)
    torch.testing.assert_close(attention_sdpa(q, k, v, Options()), attention_sdpa(q, k, v, Options(scale=0.25)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("queries", "keys", "kv_heads"), [(1, 33, 2), (33, 33, 2), (33, 33, 6), (8, 33, 2)])
def test_error_is_within_twice_that_of_plain_attention_in_the_same_dtype(dtype, queries, keys, kv_heads):
    low = [x.detach().to(dtype).requires_grad_() for x in random_qkv(2, queries, keys, 6, kv_heads, 32)]
    exact = [x.detach().double().requires_grad_() for x in low]
    truth = attention_reference(*exact, Options())[0]
    out = attention_sdpa(*low, Options())
    assert out.dtype == dtype
    simple = attention_reference(*low, Options(), dtype=dtype)[0]
    assert (out - truth).abs().max() <= 2 * (simple - truth).abs().max() + 1e-5
    gradients = [
        torch.autograd.grad(y.double().square().sum(), x) for y, x in ((out, low), (simple, low), (truth, exact))
    ]
    for ours, same_dtype, right in zip(*gradients, strict=True):
        assert ours.isfinite().all()
        # one ulp above the bound: gradients of grouped heads are sums over the group, rounded once or several times
        bound = 2 * (same_dtype - right).abs().max() + 1e-5 + torch.finfo(dtype).eps * right.abs().max()
        assert (ours - right).abs().max() <= bound


@pytest.mark.parametrize("scale", [-0.4, 0.0])
@pytest.mark.parametrize("options", [{}, {"causal": False}, {"window": 3}, {"key_lengths": torch.tensor([9, 2])}])
def test_scales_of_zero_and_below_are_no_nan(scale, options):
    check(*random_qkv(2, 9, 9, 4, 2, 16), scale=scale, **options)


def test_what_it_lacks_is_said():
    assert why_not_sdpa(Options()) is None
    assert "soft cap" in why_not_sdpa(Options(softcap=30.0))
    assert "seed" in why_not_sdpa(Options(dropout=0.1))


def test_options_combine_over_many_random_shapes():
    for seed, (queries, extra, group, causal) in enumerate(product((1, 2, 7), (0, 3), (1, 3), (True, False))):
        q, k, v = random_qkv(3, queries, queries + extra, 2 * group, 2, 8, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(0, queries + extra + 1, (3,), generator=generator)
        check(q, k, v, causal=causal, key_lengths=lengths)
