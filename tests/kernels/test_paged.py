"""Decoding over pages against the reference over contiguous caches: who computes it, and what holds whoever does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError
from arriero.kernels.attention import FORCE
from arriero.kernels.paged import paged_attention
from tests.kernels.paged_cache import PagedCache


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv(FORCE, raising=False)


@pytest.mark.parametrize("implementation", [None, "reference", "tiled", "sdpa"])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("page", [1, 6, 16])
def test_every_implementation_by_pytorch_gives_the_reference(implementation, queries, page):
    cache = PagedCache(queries=queries, heads=6, kv_heads=2, page=page)
    for options in ({}, {"window": 5}, {"scale": 0.4}):
        cache.check(paged_attention(*cache.paged, **options, implementation=implementation), **options)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_pages_are_the_reference_over_contiguous_caches(data):
    cache = PagedCache(
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
    cache = PagedCache()
    monkeypatch.setenv(FORCE, "sdpa")
    with pytest.raises(ArrieroError, match="'sdpa' was forced, but PyTorch's attention has no soft cap"):
        paged_attention(*cache.paged, softcap=1.0)
    cache.check(paged_attention(*cache.paged, softcap=1.0, implementation="reference"), softcap=1.0)
    monkeypatch.setenv(FORCE, "tritone")
    with pytest.raises(ArrieroError, match=r"there is none of that name \(did you mean triton\?\)"):
        paged_attention(*cache.paged)


def test_pages_that_a_window_left_behind_are_not_read(triton_device):
    cache = PagedCache([50, 33], queries=2, device=triton_device)
    for pages in (cache.k_pages, cache.v_pages):
        pages[cache.table[0, :2]] = torch.nan
    cache.table[0, :2] = -1
    for implementation in (None, "triton"):
        cache.check(paged_attention(*cache.paged, window=10, implementation=implementation), window=10)


def test_the_environment_forces_the_kernel(triton_device, monkeypatch):
    monkeypatch.setenv(FORCE, "triton")
    cache = PagedCache(device=triton_device)
    cache.check(paged_attention(*cache.paged))
    with pytest.raises(ArrieroError, match=r"paged attention by 'triton' was forced, but .*float64"):
        paged_attention(*(x.double() for x in cache.paged[:3]), cache.table, cache.lengths)


def test_gradients_are_refused_unless_they_are_off():
    cache = PagedCache()
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
