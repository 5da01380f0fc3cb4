"""Attention against the reference: every option, the odd shapes that other implementations get wrong, bad input."""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from arriero.common.errors import ArrieroError
from arriero.kernels.attention import attention, document_spans
from arriero.kernels.reference import attention_reference


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
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, queries, heads, dim), (batch, keys, kv_heads, dim), (batch, keys, kv_heads, dim))
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def check_against_reference(q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
    """Output and gradients equal the reference's; returns the output."""
    out, expected = attention(q, k, v, **options), attention_reference(q, k, v, **options)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-8)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    got = torch.autograd.grad(out, (q, k, v), weight)
    wanted = torch.autograd.grad(expected, (q, k, v), weight)
    for gradient, reference in zip(got, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-10, rtol=1e-8)
    return out


@pytest.mark.parametrize("dim", [16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256])
def test_every_head_dim_is_used_in_full(dim):
    check_against_reference(*random_qkv(2, 9, 9, 4, 2, dim))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (1, 20), (5, 20), (20, 5), (17, 17), (64, 65), (65, 64), (130, 131)]
)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
def test_lengths_and_groupings(queries, keys, heads, kv_heads, causal):
    check_against_reference(*random_qkv(2, queries, keys, heads, kv_heads, 16), causal=causal)


def test_causal_is_aligned_at_the_bottom_right():
    q, k, v = random_qkv(1, 2, 5, 1, 1, 8)
    out = attention(q, k, v)
    torch.testing.assert_close(out[:, :1], attention(q[:, :1], k[:, :4], v[:, :4], causal=False))
    torch.testing.assert_close(out[:, 1:], attention(q[:, 1:], k, v, causal=False))


def test_queries_before_all_keys_give_zero_and_no_gradient():
    q, k, v = random_qkv(2, 7, 3, 4, 2, 16)
    out = check_against_reference(q, k, v)
    assert (out[:, :4] == 0).all()
    (dq,) = torch.autograd.grad(attention(q, k, v).sum(), q)
    assert (dq[:, :4] == 0).all()


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("causal", [True, False])
def test_rows_have_their_own_number_of_keys(queries, causal):
    lengths = torch.tensor([9, 4, 0, 6, 1])
    q, k, v = random_qkv(5, queries, 9, 6, 3, 8)
    out = check_against_reference(q, k, v, causal=causal, key_lengths=lengths)
    assert (out[2] == 0).all()
    for row, length in enumerate(lengths.tolist()):
        own = slice(row, row + 1)
        alone = attention(q[own], k[own, :length], v[own, :length], causal=causal)
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
    segments = torch.tensor(rows)
    q, k, v = random_qkv(2, 8, 8, 4, 2, 16)
    out = check_against_reference(q, k, v, causal=causal, segments=segments)
    torch.testing.assert_close(out, attention(q, k, v, causal=causal, segments=document_spans(segments)))
    for row, start, end in document_spans(segments):
        own = slice(row, row + 1), slice(start, end)
        torch.testing.assert_close(out[own], attention(q[own], k[own], v[own], causal=causal))


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in pytree.tree_leaves(out) if isinstance(x, Tensor))])
        return out


@pytest.mark.parametrize("length", [100, 90], ids=["equal", "unequal"])
def test_packing_makes_nothing_quadratic_in_the_row(length):
    tokens = 4000
    q, k, v = random_qkv(1, tokens, tokens, 2, 1, 8)
    segments = torch.arange(tokens)[None] // length
    with LargestTensor() as seen:
        attention(q, k, v, segments=segments).sum().backward()
    assert seen.numel <= q.numel()


def test_document_spans_are_the_runs():
    assert document_spans(torch.tensor([[0, 0, 1], [4, 4, 4]])) == ((0, 0, 2), (0, 2, 3), (1, 0, 3))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 11), (6, 11), (11, 11)])
def test_non_contiguous_inputs(queries, keys, causal):
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(2, keys, 3, 4, 16, generator=generator, dtype=torch.float64)  # a fused QKV projection
    q, k, v = (x.requires_grad_() for x in (fused[:, :queries, 0], fused[:, :, 1], fused[:, :, 2]))
    check_against_reference(q, k, v, causal=causal)
    heads_first = torch.randn(2, 4, keys, 16, generator=generator, dtype=torch.float64).transpose(1, 2).requires_grad_()
    check_against_reference(q, heads_first, heads_first, causal=causal)
    reversed_dims = fused[..., ::2].flip(-1)
    check_against_reference(*(reversed_dims[:, :, i].requires_grad_() for i in range(3)), causal=causal)


def test_scale_replaces_the_default():
    q, k, v = random_qkv(1, 5, 5, 2, 2, 16)
    check_against_reference(q, k, v, scale=0.7)
    torch.testing.assert_close(attention(q, k, v), attention(q, k, v, scale=0.25))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("queries", "keys", "kv_heads"), [(1, 33, 2), (33, 33, 2), (33, 33, 6), (8, 33, 2)])
def test_error_is_within_twice_that_of_plain_attention_in_the_same_dtype(dtype, queries, keys, kv_heads):
    exact = random_qkv(2, queries, keys, 6, kv_heads, 32)
    low = [x.detach().to(dtype).requires_grad_() for x in exact]
    exact = [x.detach().double().requires_grad_() for x in low]
    truth = attention_reference(*exact)
    out = attention(*low)
    assert out.dtype == dtype

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(6 // kv_heads, 2) for x in (k, v))
        scores = torch.einsum("bthd,bshd->bhts", q, k) / 32**0.5
        scores = scores.masked_fill(torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1), -torch.inf)
        return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)

    simple = plain(*low)
    error, allowed = (out - truth).abs().max(), 2 * (simple - truth).abs().max() + 1e-5
    assert error <= allowed
    gradients = [
        torch.autograd.grad(y.double().square().sum(), x) for y, x in ((out, low), (simple, low), (truth, exact))
    ]
    for ours, same_dtype, right in zip(*gradients, strict=True):
        assert ours.isfinite().all()
        # one ulp above the bound: gradients of grouped heads are sums over the group, rounded once or several times
        bound = 2 * (same_dtype - right).abs().max() + 1e-5 + torch.finfo(dtype).eps * right.abs().max()
        assert (ours - right).abs().max() <= bound


def test_no_tokens_and_no_keys():
    q, k, v = random_qkv(2, 3, 0, 2, 2, 8)
    assert (attention(q, k, v) == 0).all()
    q, k, v = random_qkv(2, 0, 3, 2, 2, 8)
    assert attention(q, k, v).shape == (2, 0, 2, 8)
    q, k, v = random_qkv(0, 3, 3, 2, 2, 8)
    assert attention(q, k, v).shape == (0, 3, 2, 8)


def test_reference_is_the_formula():
    q, k, v = random_qkv(1, 3, 3, 1, 1, 4)
    scores = (q[0, :, 0] @ k[0, :, 0].T) / 2
    for t in range(3):
        weights = scores[t, : t + 1].exp() / scores[t, : t + 1].exp().sum()
        torch.testing.assert_close(attention_reference(q, k, v)[0, t, 0], weights @ v[0, : t + 1, 0])


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


BAD = [
    ({"q": zeros(4, 2, 8)}, r"q: expected 4 dimensions.*\(4, 2, 8\)"),
    ({"q": zeros(1, 4, 3, 8)}, "q: expected heads in a multiple of the 2 KV heads, got 3"),
    ({"k": zeros(2, 4, 2, 8)}, r"k: expected shape \(1, tokens, KV heads, 8\).*\(2, 4, 2, 8\)"),
    ({"k": zeros(1, 4, 2, 6)}, r"k: expected shape .*\(1, 4, 2, 6\)"),
    ({"v": zeros(1, 3, 2, 8)}, r"v: expected k's shape \(1, 4, 2, 8\), got \(1, 3, 2, 8\)"),
    ({"k": zeros(1, 4, 0, 8), "v": zeros(1, 4, 0, 8)}, "multiple of the 0 KV heads"),
    ({"k": zeros(1, 4, 2, 8, dtype=torch.float16)}, "k: expected q's dtype torch.float32 .* got torch.float16"),
    ({"v": zeros(1, 4, 2, 8).to("meta")}, "v: expected q's .*device cpu, got torch.float32 on meta"),
    ({"q": zeros(1, 4, 2, 8, dtype=torch.int64)}, "q: expected dtype .* got torch.int64"),
    ({"segments": torch.zeros(1, 3)}, r"segments: expected shape \(1, 4\), got \(1, 3\)"),
    ({"segments": torch.zeros(1, 2), "q": zeros(1, 2, 2, 8)}, "segments: expected as many keys as queries"),
    ({"segments": torch.tensor([[0, 1, 0, 1]])}, "segments: row 0 returns to a document"),
    (
        {"segments": torch.zeros(1, 4), "key_lengths": torch.ones(1)},
        "key_lengths: expected None together with segments",
    ),
    ({"key_lengths": torch.ones(3)}, r"key_lengths: expected shape \(1,\), got \(3,\)"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named(change, message):
    good = {"q": zeros(1, 4, 2, 8), "k": zeros(1, 4, 2, 8), "v": zeros(1, 4, 2, 8)}
    with pytest.raises(ArrieroError, match=message) as caught:
        attention(**(good | change))
    assert "\n" not in str(caught.value)


def test_options_combine_over_many_random_shapes():
    for seed, (queries, extra, group, causal) in enumerate(product((1, 2, 7), (0, 3), (1, 3), (True, False))):
        q, k, v = random_qkv(3, queries, queries + extra, 2 * group, 2, 8, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(0, queries + extra + 1, (3,), generator=generator)
        check_against_reference(q, k, v, causal=causal, key_lengths=lengths)
