"""The forward kernel against the reference: every option, every head dim, the shapes that others get wrong."""

import math

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton
import triton.language as tl

from arriero.kernels.block_mask import BlockMask, butterfly
from arriero.kernels.documents import Documents
from arriero.kernels.flash_forward import _fitting, flash_forward, forward_kernel
from arriero.kernels.flash_tiles import bucket, first_at_least, loadable, tile_offset
from arriero.kernels.options import Options
from arriero.kernels.reference import attention_reference
from tests.kernels.largest import LargestTensor
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


def check(q: Tensor, k: Tensor, v: Tensor, **options) -> tuple[Tensor, Tensor]:
    """O errs at most twice as much as PyTorch does in the same dtype, and L is right; returns both."""
    asked = Options(**options)
    out, log_sum = flash_forward(q, k, v, asked)
    assert out.dtype == q.dtype
    assert log_sum.dtype == torch.float32
    exact, exact_log_sum = attention_reference(q.double(), k.double(), v.double(), asked)
    same_dtype = attention_reference(q, k, v, asked, dtype=q.dtype)[0]
    error, allowed = ((x.double() - exact).abs().max().item() for x in (out, same_dtype))
    assert error <= 2 * allowed + 1e-5
    torch.testing.assert_close(log_sum.double() * math.log(2), exact_log_sum, atol=1e-5, rtol=1e-5)
    return out, log_sum


@pytest.mark.parametrize("dim", [16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256])
def test_every_head_dim_is_used_in_full(triton_device, dtype, dim):
    check(*tensors(triton_device, 1, 20, 20, 2, 1, dim, dtype=dtype))


@pytest.mark.parametrize("dim", [1, 8, 17])
def test_other_head_dims_work_too(triton_device, dim):
    check(*tensors(triton_device, 1, 20, 20, 2, 1, dim))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 20), (5, 37), (37, 5), (16, 16), (33, 33), (50, 48)])
def test_any_lengths_aligned_at_the_bottom_right(triton_device, dtype, queries, keys, causal):
    out, _ = check(*tensors(triton_device, 1, queries, keys, 2, 2, 16, dtype=dtype), causal=causal)
    if causal and queries > keys:
        assert (out[:, : queries - keys] == 0).all()


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
def test_grouped_heads(triton_device, dtype, heads, kv_heads):
    check(*tensors(triton_device, 2, 18, 18, heads, kv_heads, 16, dtype=dtype))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 5, 16, 40, 1000])
@pytest.mark.parametrize(("queries", "keys"), [(70, 70), (20, 60), (60, 20)])
def test_window(triton_device, queries, keys, window, causal):
    check(*tensors(triton_device, 1, queries, keys, 1, 1, 16), window=window, causal=causal)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("queries", [1, 20])
def test_rows_have_their_own_number_of_keys(triton_device, queries, causal):
    q, k, v = tensors(triton_device, 5, queries, 37, 2, 1, 16)
    for kind in (torch.int64, torch.int32):
        lengths = torch.tensor([37, 16, 0, 1, 25], device=triton_device, dtype=kind)
        out, log_sum = check(q, k, v, causal=causal, key_lengths=lengths)
        assert (out[2] == 0).all()
        assert (log_sum[2] == -torch.inf).all()


@pytest.mark.parametrize("causal", [True, False])
def test_key_mask(triton_device, causal):
    q, k, v = tensors(triton_device, 3, 40, 40, 2, 1, 16)
    mask = torch.rand(3, 40, generator=torch.Generator().manual_seed(2)).lt(0.5).to(triton_device)
    mask[1] = False
    mask[2, 20:] = True
    out, _ = check(q, k, v, causal=causal, key_mask=mask)
    assert (out[1] == 0).all()
    check(q, k, v, causal=causal, key_mask=mask.repeat_interleave(2, 1)[:, ::2])
    check(q, k, v, causal=causal, key_mask=mask[2:].expand(3, 40))


ROWS = [
    [[3] * 17 + [1] * 23, [0] + [1] * 38 + [2]],
    [[0] * 40, [0, 1, 2, 3] + [4] * 36],
]


@pytest.mark.parametrize("segments", ROWS)
@pytest.mark.parametrize("options", [{}, {"causal": False}, {"window": 4}, {"dropout": 0.3}, {"softcap": 2.0}])
def test_documents_see_themselves_only(triton_device, segments, options):
    q, k, v = tensors(triton_device, 2, 40, 40, 2, 1, 16)
    documents = Documents.from_segments(torch.tensor(segments, device=triton_device))
    check(q, k, v, documents=documents, **options)


def test_many_documents_of_any_length(triton_device):
    lengths = torch.tensor([1, 16, 1, 30, 2, 15, 32, 3], device=triton_device)
    documents = Documents.from_segments(torch.arange(8, device=triton_device).repeat_interleave(lengths).view(2, 50))
    check(*tensors(triton_device, 2, 50, 50, 2, 1, 16), documents=documents)


def test_documents_under_a_key_mask(triton_device):
    q, k, v = tensors(triton_device, 2, 40, 40, 2, 1, 16)
    mask = torch.arange(80, device=triton_device).view(2, 40) % 3 > 0
    check(q, k, v, documents=Documents.from_segments(torch.tensor(ROWS[0], device=triton_device)), key_mask=mask)


@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.7, 30.0])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_scale_of_any_sign(triton_device, dtype, scale, softcap):
    check(*tensors(triton_device, 1, 20, 36, 2, 1, 16, dtype=dtype), scale=scale, softcap=softcap)


@pytest.mark.parametrize("softcap", [0.5, 20.0])
def test_softcap(triton_device, softcap):
    q, k, v = tensors(triton_device, 1, 33, 33, 2, 1, 16)
    check(q * 10, k * 10, v, softcap=softcap)


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("causal", [True, False])
def test_block_mask(triton_device, dtype, size, causal):
    q, k, v = tensors(triton_device, 2, 90, 90, 2, 1, 16, dtype=dtype)
    blocks = butterfly(-(-90 // size), triton_device)
    blocks[1] = False
    out, _ = check(q, k, v, causal=causal, block_mask=BlockMask(blocks, size=size))
    assert (out[:, size : 2 * size] == 0).all()


@pytest.mark.parametrize("options", [{}, {"causal": False}, {"window": 20}, {"window": 20, "causal": False}])
def test_block_mask_of_each_head(triton_device, options):
    q, k, v = tensors(triton_device, 1, 50, 70, 3, 1, 16)
    blocks = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(3)).lt(0.6).to(triton_device)
    check(q, k, v, block_mask=BlockMask(blocks, size=32), **options)


def test_dropout_takes_the_references_mask(triton_device, dtype):
    q, k, v = tensors(triton_device, 2, 36, 36, 2, 1, 16, dtype=dtype)
    out, log_sum = check(q, k, v, dropout=0.4, seed=2**40 + 7)
    other, same_log_sum = check(q, k, v, dropout=0.4, seed=8)
    assert not torch.equal(out, other)
    assert torch.equal(log_sum, same_log_sum)


@pytest.mark.parametrize(("block_m", "block_n"), [(16, 32), (32, 16)])
def test_blocks_of_any_size_compute_the_same(triton_device, monkeypatch, block_m, block_n):
    q, k, v = tensors(triton_device, 1, 70, 70, 2, 1, 16)
    config = triton.Config({"BLOCK_M": block_m, "BLOCK_N": block_n}, num_warps=2, num_stages=2)
    monkeypatch.setattr(forward_kernel, "configs", [config])
    check(q, k, v, dropout=0.3, seed=5)
    check(q, k, v, causal=False, window=20)
    check(q, k, v, block_mask=BlockMask(butterfly(3, triton_device), size=32))


def test_options_combine(triton_device, dtype):
    q, k, v = tensors(triton_device, 2, 40, 64, 2, 1, 24, dtype=dtype)
    lengths = torch.tensor([64, 41], device=triton_device)
    mask = torch.arange(128, device=triton_device).view(2, 64) % 5 > 0
    blocks = BlockMask(torch.ones(2, 2, dtype=torch.bool, device=triton_device).tril(), size=32)
    shared = {"window": 30, "softcap": 5.0, "dropout": 0.2, "seed": 3, "scale": -0.4, "key_mask": mask}
    check(q, k, v, key_lengths=lengths, block_mask=blocks, **shared)
    check(q, k, v, key_lengths=lengths, causal=False, **shared)


def test_strides_of_fused_qkv_and_of_heads_first(triton_device):
    q, k, v = tensors(triton_device, 2, 20, 20, 2, 2, 24)
    plain = flash_forward(q, k, v, Options())
    fused = torch.stack([q, k, v], 2).unbind(2)  # one (B, T, 3, H, D), as a single projection gives
    heads_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    dims_apart = [x.repeat_interleave(2, 3)[..., ::2] for x in (q, k, v)]
    spread = [x.expand(2, 20, 2, 24) for x in (q[:1], k[:1], v[:1])]
    for strided in (fused, heads_first, dims_apart):
        for got, expected in zip(flash_forward(*strided, Options()), plain, strict=True):
            assert torch.equal(got, expected)
    check(*spread)


def test_memory_is_linear_in_the_length(triton_device):
    q, k, v = tensors(triton_device, 1, 300, 300, 1, 1, 16)
    with LargestTensor() as largest:
        flash_forward(q, k, v, Options(window=3))
    assert largest.numel < 300 * 300


def test_large_scores_overflow_nothing(triton_device, dtype):
    q, k, v = tensors(triton_device, 1, 20, 20, 1, 1, 16, dtype=dtype)
    out, log_sum = flash_forward(q * 100, k * 100, v, Options())
    assert out.isfinite().all()
    assert log_sum.isfinite().all()


@triton.jit
def offset_kernel(result, row, head, token, stride_row, stride_head, stride_token):
    tl.store(result, tile_offset(row, head, token, stride_row, stride_head, stride_token))


@pytest.mark.parametrize(
    ("place", "strides"),
    [
        ((70_000, 3, 5), (65_536, 128, 4096)),
        ((1, 31, 1_000_000), (2**33, 128, 4096)),
        ((2, 3, 7), (2**31 - 1, 2**31 - 16, 2**31 - 3)),
        ((0, 40_000, 0), (1, 100_000, 1)),
    ],
)
def test_offsets_beyond_32_bits(triton_device, place, strides):
    result = torch.zeros(1, dtype=torch.int64, device=triton_device)
    offset_kernel[(1,)](result, *place, *strides)
    expected = sum(index * stride for index, stride in zip(place, strides, strict=True))
    assert expected > 2**31
    assert result.item() == expected


@triton.jit
def search_kernel(result, members, begin, end, block):
    tl.store(result, first_at_least(members, begin, end, block))


def test_first_at_least(triton_device):
    members = torch.tensor([9, 1, 3, 4, 8, 0], dtype=torch.int32, device=triton_device)
    result = torch.zeros(1, dtype=torch.int32, device=triton_device)
    for block, expected in [(0, 1), (1, 1), (2, 2), (4, 3), (5, 4), (8, 4), (9, 5)]:
        search_kernel[(1,)](result, members, 1, 5, block)
        assert result.item() == expected


def test_loadable_copies_outlandish_strides_only():
    x = torch.empty(2, 3, 4, 8)
    assert loadable(x) is x
    assert loadable(x[..., ::2]).stride(3) == 1
    far_apart = torch.empty_strided((1, 2, 1, 1), (2**24, 2**23, 1, 1))
    assert loadable(far_apart).stride(1) == 1


def test_lengths_share_an_autotuning_by_power_of_two():
    assert [bucket(x) for x in (0, 1, 16, 17, 32, 33, 8192, 100_000)] == [16, 16, 16, 32, 32, 64, 8192, 8192]


@pytest.mark.parametrize("size", [0, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("longest", [1, 16, 33, 64, 5000])
def test_every_call_has_tiles_that_fit(size, longest):
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        for dim in (16, 32, 64, 128, 256):
            arguments = {"q_pointer": torch.empty(0, dtype=kind), "longest_bucket": bucket(longest)}
            tiles = [config.kwargs for config in _fitting([], arguments, SIZE=size, BLOCK_D=dim)]
            assert tiles
            assert all(tile["BLOCK_M"] <= bucket(longest) for tile in tiles)
            if size:
                assert all(size % tile["BLOCK_M"] == size % tile["BLOCK_N"] == 0 for tile in tiles)
