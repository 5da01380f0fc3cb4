"""The backward kernels against autograd through the reference: every option, head dim, odd shape and odd stride."""

import math

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from arriero.kernels.block_mask import BlockMask, butterfly
from arriero.kernels.documents import Documents
from arriero.kernels.flash_backward import flash_backward
from arriero.kernels.options import Options
from arriero.kernels.reference import attention_reference
from tests.kernels.qkv import random_qkv

HALF = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]


@pytest.fixture(params=[torch.float32, *HALF], ids=["fp32", "fp16", "bf16"])
def dtype(request, triton_device) -> torch.dtype:
    if triton_device == "cpu" and request.param == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies bf16 wrongly")
    return request.param


def tensors(device: str, *shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (x.detach().to(device) for x in random_qkv(*shape, dtype=dtype))
    return q, k, v


def through_reference(q, k, v, grad_out, grad_log_sum, options, dtype) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """dQ, dK, dV by autograd, computed in `dtype`, and O and L."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
    out, log_sum = attention_reference(*leaves, options, dtype=dtype)
    outputs, upstream = [out], [grad_out.to(out.dtype)]
    if grad_log_sum is not None:
        outputs, upstream = [out, log_sum], [*upstream, grad_log_sum.to(log_sum.dtype)]
    return torch.autograd.grad(outputs, leaves, upstream), out.detach(), log_sum.detach()


def check(
    q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor | None = None, grad_log_sum: Tensor | None = None, **options
) -> tuple[Tensor, ...]:
    """Each gradient errs at most twice as much as PyTorch's in the same dtype; returns the gradients."""
    asked = Options(**options)
    if grad_out is None:
        grad_out = torch.randn(q.shape, generator=torch.Generator().manual_seed(9)).to(q)
    exact, out, log_sum = through_reference(q, k, v, grad_out, grad_log_sum, asked, torch.float64)
    simple, _, _ = through_reference(q, k, v, grad_out, grad_log_sum, asked, q.dtype)
    got = flash_backward(q, k, v, out.to(q.dtype), (log_sum / math.log(2)).float(), grad_out, grad_log_sum, asked)
    for name, x, ours, plain, right in zip("qkv", (q, k, v), got, simple, exact, strict=True):
        assert ours.shape == x.shape, name
        assert ours.dtype == x.dtype, name
        allowed = 2 * (plain - right).abs().max() + 1e-5
        assert (ours - right).abs().max() <= allowed, name
    return got


@pytest.mark.parametrize("dim", [16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256])
def test_every_head_dim_is_used_in_full(triton_device, dtype, dim):
    check(*tensors(triton_device, 1, 20, 20, 2, 1, dim, dtype=dtype))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 20), (5, 37), (37, 5), (16, 16), (33, 33), (50, 48)])
def test_any_lengths_aligned_at_the_bottom_right(triton_device, dtype, queries, keys, causal):
    grads = check(*tensors(triton_device, 1, queries, keys, 2, 2, 16, dtype=dtype), causal=causal)
    if causal and queries > keys:
        assert (grads[0][:, : queries - keys] == 0).all()


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
def test_heads_that_share_keys_add_their_gradients_up(triton_device, dtype, heads, kv_heads):
    check(*tensors(triton_device, 2, 18, 18, heads, kv_heads, 16, dtype=dtype))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 5, 16, 40])
@pytest.mark.parametrize(("queries", "keys"), [(50, 50), (20, 60), (60, 20)])
def test_window(triton_device, queries, keys, window, causal):
    check(*tensors(triton_device, 1, queries, keys, 1, 1, 16), window=window, causal=causal)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("queries", [1, 20])
def test_keys_beyond_a_row_s_own_get_no_gradient(triton_device, queries, causal):
    q, k, v = tensors(triton_device, 5, queries, 37, 2, 1, 16)
    lengths = torch.tensor([37, 16, 0, 1, 25], device=triton_device)
    grad_q, grad_k, grad_v = check(q, k, v, causal=causal, key_lengths=lengths)
    assert (grad_q[2] == 0).all()
    for row, length in enumerate(lengths.tolist()):
        assert (grad_k[row, length:] == 0).all()
        assert (grad_v[row, length:] == 0).all()
    check(q, k, v, causal=causal, key_lengths=lengths.repeat_interleave(2)[::2])


@pytest.mark.parametrize("causal", [True, False])
def test_key_mask(triton_device, causal):
    q, k, v = tensors(triton_device, 3, 40, 40, 2, 1, 16)
    mask = torch.rand(3, 40, generator=torch.Generator().manual_seed(2)).lt(0.5).to(triton_device)
    mask[1] = False
    grads = check(q, k, v, causal=causal, key_mask=mask)
    for grad in grads:
        assert (grad[1] == 0).all()
    assert (grads[1][~mask] == 0).all()
    check(q, k, v, causal=causal, key_mask=mask.repeat_interleave(2, 1)[:, ::2])


@pytest.mark.parametrize("segments", [[[3] * 17 + [1] * 23, [0] + [1] * 38 + [2]], [[0] * 40, [0, 1, 2] + [4] * 37]])
@pytest.mark.parametrize("options", [{}, {"causal": False}, {"window": 4}, {"dropout": 0.3}, {"deterministic": False}])
def test_documents(triton_device, segments, options):
    documents = Documents.from_segments(torch.tensor(segments, device=triton_device))
    check(*tensors(triton_device, 2, 40, 40, 2, 1, 16), documents=documents, **options)


@pytest.mark.parametrize("softcap", [0.5, 30.0])
def test_soft_cap(triton_device, dtype, softcap):
    q, k, v = tensors(triton_device, 1, 20, 33, 2, 1, 16, dtype=dtype)
    check(q * 3, k, v, softcap=softcap)


@pytest.mark.parametrize("scale", [0.7, -0.3, 0.0])
def test_any_scale(triton_device, scale):
    check(*tensors(triton_device, 1, 33, 33, 2, 2, 16), scale=scale)


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_dropout_drops_what_the_forward_pass_dropped(triton_device, dtype, rate):
    check(*tensors(triton_device, 2, 20, 33, 4, 2, 16, dtype=dtype), dropout=rate, seed=2**40 + 1)


@pytest.mark.parametrize(
    ("queries", "keys", "causal"),
    [
        (70, 70, True),
        (33, 70, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(70, 70, False), (33, 70, True)]),
        *(pytest.param(70, 33, causal, marks=pytest.mark.slow) for causal in (True, False)),
    ],
)
def test_block_masks_reach_the_backward_pass(triton_device, queries, keys, causal):
    tiles = -(-queries // 16), -(-keys // 16)
    blocks = torch.rand(4, *tiles, generator=torch.Generator().manual_seed(1)).lt(0.5).to(triton_device)
    blocks[1] = False
    q, k, v = tensors(triton_device, 1, queries, keys, 4, 2, 16)
    grad_q, _, _ = check(q, k, v, causal=causal, block_mask=BlockMask(blocks, size=16))
    assert (grad_q[:, :, 1] == 0).all()
    for size in (16, 32):
        whole = butterfly(-(-70 // size), triton_device)[: -(-queries // size), : -(-keys // size)]
        check(q, k, v, causal=causal, block_mask=BlockMask(whole, size=size))


@pytest.mark.parametrize(("queries", "keys"), [(20, 20), (37, 5), (5, 37)])
def test_gradient_of_the_log_sum(triton_device, queries, keys):
    q, k, v = tensors(triton_device, 2, queries, keys, 4, 2, 16)
    upstream = torch.randn(2, 4, queries, generator=torch.Generator().manual_seed(3)).to(triton_device)
    seen = torch.arange(queries, device=triton_device) >= queries - keys  # the others' L is −∞, whatever q and k are
    check(q, k, v, grad_log_sum=upstream * seen)
    check(q, k, v, grad_log_sum=(upstream * seen).transpose(0, 1).contiguous().transpose(0, 1))


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_gradient_of_minus_infinity_goes_nowhere(triton_device, deterministic):
    q, k, v = tensors(triton_device, 1, 20, 5, 2, 1, 16)
    upstream = torch.ones(1, 2, 20, device=triton_device)
    upstream[:, :, :15] = torch.nan  # as merging L with another −∞ gives it
    grad_q, _, _ = check(q, k, v, grad_log_sum=upstream, deterministic=deterministic)
    assert (grad_q[:, :15] == 0).all()


@pytest.mark.parametrize("options", [{}, {"causal": False}, {"window": 7}, {"dropout": 0.4}, {"softcap": 2.0}])
def test_one_pass_with_atomics_gives_the_same(triton_device, dtype, options):
    check(*tensors(triton_device, 2, 37, 50, 4, 2, 24, dtype=dtype), deterministic=False, **options)


def test_strides_of_every_kind(triton_device):
    fused = torch.randn(2, 20, 3, 2, 16, generator=torch.Generator().manual_seed(0)).to(triton_device)
    q, k, v = fused.unbind(2)  # a fused QKV projection
    check(q, k, v)
    check(*(x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)))
    check(q[..., ::2], k[..., ::2], v.flip(-1)[..., ::2])
    check(q, k, v, grad_out=torch.ones((), device=triton_device).expand(q.shape))  # as `out.sum()` gives it
    check(q, k, v, grad_out=torch.randn(2, 2, 20, 16, device=triton_device).transpose(1, 2))


def test_options_combine(triton_device):
    lengths = torch.tensor([30, 9], device=triton_device)
    mask = (torch.arange(80).view(2, 40) % 5 > 0).to(triton_device)
    q, k, v = tensors(triton_device, 2, 20, 40, 4, 2, 24)
    check(q, k, v, key_lengths=lengths, key_mask=mask, window=9, softcap=3.0, dropout=0.2, scale=-0.5)
    blocks = BlockMask(torch.ones(2, 3, dtype=torch.bool, device=triton_device).triu(), size=16)
    check(q, k, v, key_lengths=lengths, block_mask=blocks, window=21, causal=False, dropout=0.2)


@pytest.mark.gpu
def test_the_same_bits_fifty_times():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    q, k, v = tensors("cuda", 2, 1000, 1000, 8, 2, 64, dtype=torch.bfloat16)
    out, log_sum = attention_reference(q, k, v, Options())
    grad_out = torch.randn_like(q)
    first = flash_backward(q, k, v, out, log_sum / math.log(2), grad_out, None, Options())
    for _ in range(50):
        again = flash_backward(q, k, v, out, log_sum / math.log(2), grad_out, None, Options())
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
