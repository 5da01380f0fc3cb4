"""The decoding kernels against the reference: every head dim, rows of any length, and any number of splits."""

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from arriero.common.errors import ArrieroError
from arriero.kernels.flash_decode import _splits, flash_decode
from arriero.kernels.flash_tiles import tile_offset
from arriero.kernels.options import Options
from arriero.kernels.paged import paged_attention
from tests.kernels.paged_cache import PagedCache

HALF = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]


@pytest.fixture(params=[torch.float32, *HALF], ids=["fp32", "fp16", "bf16"])
def dtype(request, triton_device) -> torch.dtype:
    if triton_device == "cpu" and request.param == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies bf16 wrongly")
    return request.param


def check_kernel(cache: PagedCache, splits: tuple[int, ...] = (1, 3), **options) -> None:
    for count in splits:
        cache.check(flash_decode(*cache.paged, Options(**options), splits=count), **options)


@pytest.mark.parametrize("dim", [16, 24, 64, 80, 192, 256])
def test_every_head_dim_is_used_in_full(triton_device, dtype, dim):
    check_kernel(PagedCache([20, 35], dim=dim, dtype=dtype, device=triton_device))


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (3, 1), (8, 1)])
def test_rows_of_any_length_grouped_heads_and_any_number_of_splits(triton_device, dtype, queries, heads, kv_heads):
    cache = PagedCache(queries=queries, heads=heads, kv_heads=kv_heads, dtype=dtype, device=triton_device)
    check_kernel(cache, splits=(1, 2, 7))


def test_more_queries_than_a_tile_has(triton_device, dtype):
    cache = PagedCache([70, 20], queries=22, heads=3, dtype=dtype, device=triton_device)
    check_kernel(cache)
    check_kernel(cache, splits=(2,), window=20)


@pytest.mark.parametrize("page", [1, 5, 16, 64])
@pytest.mark.parametrize("garbage", [-1, 10**6])
def test_pages_of_any_size(triton_device, page, garbage):
    check_kernel(PagedCache(queries=2, page=page, garbage=garbage, device=triton_device))


@pytest.mark.parametrize("window", [1, 5, 16, 40, 1000])
@pytest.mark.parametrize("queries", [1, 3])
def test_window(triton_device, queries, window):
    check_kernel(PagedCache([50, 3], queries=queries, heads=8, device=triton_device), window=window)


def test_softcap_and_scale(triton_device, dtype):
    cache = PagedCache([40, 3], queries=2, dtype=dtype, device=triton_device)
    for options in ({"softcap": 1.5}, {"scale": -0.5}, {"scale": 0.0}, {"softcap": 2.0, "scale": 3.0, "window": 20}):
        check_kernel(cache, **options)


def test_large_scores_overflow_nothing(triton_device, dtype):
    cache = PagedCache(dtype=dtype, device=triton_device)
    cache.q *= 100
    check_kernel(cache)


def test_pools_that_are_slices_and_tables_of_any_stride(triton_device):
    cache = PagedCache(queries=2, heads=4, kv_heads=2, device=triton_device)
    plain = paged_attention(*cache.paged, implementation="triton")
    layers = torch.stack([torch.stack([x, x * 0], 1) for x in (cache.k_pages, cache.v_pages)], 1)
    k_pages, v_pages = layers[:, 0, 0], layers[:, 1, 0]  # of (P, 2, layers, page, K, D)
    heads_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (cache.k_pages, cache.v_pages)]
    q = cache.q.repeat_interleave(2, 3)[..., ::2]
    table, lengths = cache.table.repeat_interleave(2, 1)[:, ::2].int(), cache.lengths.repeat_interleave(2)[::2].int()
    for pools in ((k_pages, v_pages), heads_first):
        assert torch.equal(paged_attention(q, *pools, table, lengths, implementation="triton"), plain)
    apart = [x.repeat_interleave(2, 3)[..., ::2] for x in (cache.k_pages, cache.v_pages)]
    with pytest.raises(ArrieroError, match="forced, but the kernel needs pages whose head dim is contiguous"):
        paged_attention(q, *apart, table, lengths, implementation="triton")


@triton.jit
def offset_kernel(result, pages, head, token, stride_page, stride_head, stride_token, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(result + i, tile_offset(tl.load(pages + i), head, token + i, stride_page, stride_head, stride_token))


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@pytest.mark.parametrize("strides", [(65_536, 128, 4096), (2**33, 128, 4096), (2**20 + 8, 2**31 - 16, 2**31 - 3)])
def test_offsets_beyond_32_bits(triton_device, strides, kind):
    pages = torch.tensor([70_000, 0, 2**29, 33_000], dtype=kind, device=triton_device)
    result = torch.zeros(4, dtype=torch.int64, device=triton_device)
    offset_kernel[(1,)](result, pages, 3, 5, *strides, N=4)
    expected = [p * strides[0] + 3 * strides[1] + (5 + i) * strides[2] for i, p in enumerate(pages.tolist())]
    assert max(expected) > 2**31
    assert result.tolist() == expected


@pytest.mark.parametrize(
    ("programs", "keys", "expected"),
    [(1, 10_000, 8), (1, 300, 2), (1, 16, 1), (3, 10_000, 2), (8, 10_000, 1), (9, 10_000, 1)],
)
def test_splits_fill_the_processors_unless_there_are_few_keys(programs, keys, expected):
    assert _splits(torch.device("cpu"), programs, keys) == expected
