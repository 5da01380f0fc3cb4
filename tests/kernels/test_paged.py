"""Decoding over pages against the reference over contiguous caches: by PyTorch, and by the kernels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

import triton
import triton.language as tl

from arriero.common.errors import ArrieroError
from arriero.kernels.attention import FORCE
from arriero.kernels.flash_decode import _splits, flash_decode
from arriero.kernels.flash_tiles import tile_offset
from arriero.kernels.options import Options
from arriero.kernels.paged import paged_attention
from arriero.kernels.reference import attention_reference
from tests.kernels.qkv import random_qkv

LENGTHS = [50, 0, 1, 32]
HALF = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv(FORCE, raising=False)


@pytest.fixture(params=[torch.float32, *HALF], ids=["fp32", "fp16", "bf16"])
def dtype(request, triton_device) -> torch.dtype:
    if triton_device == "cpu" and request.param == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies bf16 wrongly")
    return request.param


class Cache:
    """Rows of keys and values, contiguous and in shuffled pages; NaN wherever no row has a key."""

    def __init__(
        self,
        lengths: list[int] = LENGTHS,
        *,
        queries: int = 1,
        heads: int = 2,
        kv_heads: int = 1,
        dim: int = 16,
        page: int = 16,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        garbage: int = -1,
    ):
        pages = max(-(-length // page) for length in lengths) + 1
        shape = (len(lengths), queries, pages * page, heads, kv_heads, dim)
        self.q, self.k, self.v = (x.detach().to(device) for x in random_qkv(*shape, dtype=dtype))
        self.lengths = torch.tensor(lengths, device=device)
        total = sum(-(-length // page) for length in lengths) + 3
        order = iter(torch.randperm(total, generator=torch.Generator().manual_seed(1)).tolist())
        self.table = torch.full((len(lengths), pages), garbage, device=device)
        self.k_pages, self.v_pages = self.k.new_full((2, total, page, kv_heads, dim), torch.nan)
        for row, length in enumerate(lengths):
            for first in range(0, length, page):
                number, part = next(order), slice(first, min(first + page, length))
                self.table[row, first // page] = number
                self.k_pages[number, : part.stop - first] = self.k[row, part]
                self.v_pages[number, : part.stop - first] = self.v[row, part]

    @property
    def paged(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.q, self.k_pages, self.v_pages, self.table, self.lengths

    def check(self, out: Tensor, **options) -> None:
        """`out` errs at most twice as much as PyTorch does in the same dtype."""
        asked = Options(key_lengths=self.lengths, **options)
        assert out.dtype == self.q.dtype
        exact = attention_reference(self.q.double(), self.k.double(), self.v.double(), asked)[0]
        same_dtype = attention_reference(self.q, self.k, self.v, asked, dtype=self.q.dtype)[0]
        error, allowed = ((x.double() - exact).abs().max().item() for x in (out, same_dtype))
        assert error <= 2 * allowed + 1e-5  # false for NaN
        assert (out[self.lengths == 0] == 0).all()


def check_kernel(cache: Cache, splits: tuple[int, ...] = (1, 3), **options) -> None:
    for count in splits:
        cache.check(flash_decode(*cache.paged, Options(**options), splits=count), **options)


@pytest.mark.parametrize("dim", [16, 24, 64, 80, 128, 192, 256])
def test_every_head_dim_is_used_in_full(triton_device, dtype, dim):
    check_kernel(Cache([20, 35], dim=dim, dtype=dtype, device=triton_device))


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (3, 1), (8, 1)])
def test_rows_of_any_length_grouped_heads_and_any_number_of_splits(triton_device, dtype, queries, heads, kv_heads):
    cache = Cache(queries=queries, heads=heads, kv_heads=kv_heads, dtype=dtype, device=triton_device)
    check_kernel(cache, splits=(1, 2, 7))


def test_more_queries_than_a_tile_has(triton_device, dtype):
    check_kernel(Cache([70, 20, 0], queries=25, heads=3, dtype=dtype, device=triton_device))


@pytest.mark.parametrize("page", [1, 5, 16, 64])
@pytest.mark.parametrize("garbage", [-1, 10**6])
def test_pages_of_any_size(triton_device, page, garbage):
    check_kernel(Cache(queries=2, page=page, garbage=garbage, device=triton_device))


@pytest.mark.parametrize("window", [1, 5, 16, 40, 1000])
@pytest.mark.parametrize("queries", [1, 3])
def test_window(triton_device, queries, window):
    check_kernel(Cache([50, 3], queries=queries, heads=8, device=triton_device), window=window)


def test_softcap_and_scale(triton_device, dtype):
    cache = Cache([40, 3], queries=2, dtype=dtype, device=triton_device)
    for options in ({"softcap": 1.5}, {"scale": -0.5}, {"scale": 0.0}, {"softcap": 2.0, "scale": 3.0, "window": 20}):
        check_kernel(cache, **options)


def test_large_scores_overflow_nothing(triton_device, dtype):
    cache = Cache(dtype=dtype, device=triton_device)
    cache.q *= 100
    check_kernel(cache)


def test_pages_that_a_window_left_behind_are_not_read(triton_device):
    cache = Cache([50, 33], queries=2, device=triton_device)
    for pages in (cache.k_pages, cache.v_pages):
        pages[cache.table[0, :2]] = torch.nan
    cache.table[0, :2] = -1
    for implementation in (None, "triton"):
        cache.check(paged_attention(*cache.paged, window=10, implementation=implementation), window=10)


def test_pools_that_are_slices_and_tables_of_any_stride(triton_device):
    cache = Cache(queries=2, heads=4, kv_heads=2, device=triton_device)
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


@pytest.mark.parametrize("implementation", [None, "reference", "tiled", "sdpa"])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("page", [1, 6, 16])
def test_every_implementation_by_pytorch_gives_the_reference(implementation, queries, page):
    cache = Cache(queries=queries, heads=6, kv_heads=2, page=page)
    for options in ({}, {"window": 5}, {"scale": 0.4}):
        cache.check(paged_attention(*cache.paged, **options, implementation=implementation), **options)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_pages_are_the_reference_over_contiguous_caches(data):
    cache = Cache(
        data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=4)),
        queries=data.draw(st.integers(1, 4)),
        heads=4,
        kv_heads=data.draw(st.sampled_from([1, 2, 4])),
        dim=8,
        page=data.draw(st.integers(1, 20)),
        dtype=torch.float64,
        garbage=data.draw(st.sampled_from([-1, 0, 10**9])),
    )
    options = {
        "window": data.draw(st.none() | st.integers(1, 50)),
        "softcap": data.draw(st.none() | st.floats(0.5, 30)),
        "scale": data.draw(st.none() | st.floats(-1, 1)),
    }
    cache.check(paged_attention(*cache.paged, **options), **options)


def test_the_environment_forces_one_and_the_argument_beats_it(monkeypatch):
    cache = Cache()
    monkeypatch.setenv(FORCE, "sdpa")
    with pytest.raises(ArrieroError, match="'sdpa' was forced, but PyTorch's attention has no soft cap"):
        paged_attention(*cache.paged, softcap=1.0)
    cache.check(paged_attention(*cache.paged, softcap=1.0, implementation="reference"), softcap=1.0)
    monkeypatch.setenv(FORCE, "tritone")
    with pytest.raises(ArrieroError, match=r"there is none of that name \(did you mean triton\?\)"):
        paged_attention(*cache.paged)


def test_the_environment_forces_the_kernel(triton_device, monkeypatch):
    monkeypatch.setenv(FORCE, "triton")
    cache = Cache(device=triton_device)
    cache.check(paged_attention(*cache.paged))
    with pytest.raises(ArrieroError, match=r"paged attention by 'triton' was forced, but .*float64"):
        paged_attention(*(x.double() for x in cache.paged[:3]), cache.table, cache.lengths)


def test_gradients_are_refused_unless_they_are_off():
    cache = Cache()
    for name, x in (("q", cache.q), ("k_pages", cache.k_pages), ("v_pages", cache.v_pages)):
        x.requires_grad_()
        with pytest.raises(ArrieroError, match=f"{name}: expected inference, got a tensor that requires gradients"):
            paged_attention(*cache.paged)
        with torch.no_grad():
            cache.check(paged_attention(*cache.paged))
        x.requires_grad_(False)


def test_nothing_to_attend_to():
    q, pages = torch.zeros(2, 3, 4, 8), torch.zeros(5, 16, 2, 8)
    table, lengths = torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    assert (paged_attention(q, pages, pages, table[:, :0], lengths) == 0).all()
    assert (paged_attention(q, pages[:0], pages[:0], table, lengths) == 0).all()
    assert paged_attention(q[:0], pages, pages, table[:0], lengths[:0]).shape == (0, 3, 4, 8)
    assert paged_attention(q[:, :0], pages, pages, table, lengths).shape == (2, 0, 4, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 4, 8)}, r"q: expected 4 dimensions .*, got shape \(2, 4, 8\)"),
        ({"q": torch.zeros(2, 1, 4, 8).long()}, "q: expected dtype float32, .*, got torch.int64"),
        ({"q": torch.zeros(2, 1, 3, 8)}, "q: expected heads in a multiple of the 2 KV heads, got 3 heads"),
        (
            {"k_pages": torch.zeros(5, 16, 2, 9)},
            r"k_pages: expected shape \(pages, .*, 8\) to go with q, got \(5, 16, 2",
        ),
        ({"k_pages": torch.zeros(5, 0, 2, 8)}, r"k_pages: expected .* 1 token a page or more, .* got \(5, 0, 2, 8\)"),
        (
            {"v_pages": torch.zeros(4, 16, 2, 8)},
            r"v_pages: expected k_pages' shape \(5, 16, 2, 8\), got \(4, 16, 2, 8\)",
        ),
        ({"v_pages": torch.zeros(5, 16, 2, 8).half()}, "v_pages: expected q's dtype torch.float32, got torch.float16"),
        ({"k_pages": torch.zeros(5, 16, 2, 8, device="meta")}, "k_pages: expected q's device cpu, got meta"),
        ({"page_table": torch.zeros(3, 2).int()}, r"page_table: expected shape \(2, pages .*\), got \(3, 2\)"),
        ({"page_table": torch.tensor(0)}, r"page_table: expected shape \(2, pages of the longest row\), got \(\)"),
        ({"page_table": torch.zeros(2, 3)}, "page_table: expected int64 or int32, got torch.float32"),
        ({"page_table": torch.tensor([[0, 5, 0], [0, 0, 0]])}, "page_table: expected pages 0 to 4 up to each .* got 5"),
        (
            {"page_table": torch.tensor([[0, 1, 0], [-1, 0, 0]])},
            "page_table: expected pages 0 to 4 up to each .* got -1",
        ),
        ({"page_table": torch.zeros(2, 3, device="meta").int()}, "page_table: expected q's device cpu, got meta"),
        ({"lengths": torch.zeros(2, 1).int()}, r"lengths: expected shape \(2,\), got \(2, 1\)"),
        ({"lengths": torch.zeros(2)}, "lengths: expected int64 or int32, got torch.float32"),
        ({"lengths": torch.tensor([0, 49])}, r"lengths: expected 0 to 48 keys \(3 pages of 16 tokens\), got 49"),
        ({"lengths": torch.tensor([-1, 2])}, "lengths: expected 0 to 48 keys .*, got -1"),
        ({"window": 0}, "window: expected 1 token or more, got 0"),
        ({"softcap": -1.0}, r"softcap: expected a number above 0, got -1\.0"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {
        "q": torch.zeros(2, 1, 4, 8),
        "k_pages": torch.zeros(5, 16, 2, 8),
        "v_pages": torch.zeros(5, 16, 2, 8),
        "page_table": torch.tensor([[0, 1, -1], [4, -1, 99]]),
        "lengths": torch.tensor([20, 16]),
    }
    paged_attention(**arguments)
    with pytest.raises(ArrieroError, match=message):
        paged_attention(**arguments | changes)
