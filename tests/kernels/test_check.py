"""The grid: every implementation within the bound, and an error beyond it is seen."""

import importlib
import math

import pytest

from arriero.kernels import check
from arriero.kernels.check import HEAD_DIMS, Checked, cases, check_kernels, paged_cases


def test_the_grid_has_every_head_dim_and_option():
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)
    assert {f"head dim {dim}" for dim in HEAD_DIMS} <= set(names)
    for option in ("1 × 20, causal", "packed documents", "key mask", "window 10", "soft cap 2", "dropout 0.3"):
        assert option in names
    assert len(cases(full=True)) > len(cases())


def test_tiles_and_pytorch_are_within_the_bound():
    checked = list(check_kernels("cpu", ("tiled", "sdpa")))
    assert [one for one in checked if not one.passed] == []
    assert {one.dtype for one in checked} == {"float32", "float16", "bfloat16"}
    assert {one.result for one in checked if one.skipped is None} == {"out", "dq", "dk", "dv"}
    reasons = {(one.implementation, one.case) for one in checked if one.skipped}
    assert ("sdpa", "soft cap 2") in reasons
    assert not any(implementation == "tiled" for implementation, _ in reasons)


@pytest.mark.slow
def test_triton_is_within_the_bound(triton_device):
    checked = list(check_kernels(triton_device, ("triton",)))
    assert [one for one in checked if not one.passed] == []


def test_a_wrong_result_is_seen(monkeypatch):
    right = check.attention
    monkeypatch.setattr(check, "attention", lambda *qkv, **options: right(*qkv, **options) + 1e-3)
    monkeypatch.setattr(check, "cases", lambda full: [check.Case(name="one", shape=(1, 8, 8, 2, 1, 16))])
    monkeypatch.setattr(check, "paged_cases", list)
    failed = {one.result for one in check_kernels("cpu", ("tiled",)) if not one.passed and one.dtype == "float32"}
    assert failed == {"out"}


def test_the_grid_of_paged_decoding_has_every_kind():
    grid = paged_cases()
    assert len({case.name for case in grid}) == len(grid)
    assert all({0, 1} < set(case.lengths) for case in grid)
    assert {(case.heads, case.kv_heads) for case in grid} == {(6, 2), (4, 1), (2, 2)}
    assert {case.page for case in grid} == {1, 5, 16, 64}
    assert {case.splits for case in grid} == {None, 2, 3, 7}
    assert {case.options.window for case in grid} == {None, 20}
    assert {case.options.softcap for case in grid} == {None, 2.0}
    assert {case.queries for case in grid} == {1, 3}


@pytest.mark.parametrize("implementation", ["tiled", "sdpa", "triton"])
def test_paged_decoding_is_within_the_bound_in_every_dtype(monkeypatch, triton_device, implementation):
    monkeypatch.setattr(check, "cases", lambda full: [])
    checked = list(check_kernels(triton_device, (implementation,)))
    assert [one for one in checked if not one.passed] == []
    assert {"float32", "float16"} <= {one.dtype for one in checked if one.skipped is None}
    assert len(checked) == check.count_calls((implementation,))


@pytest.mark.parametrize(("computes", "kind"), [("paged_attention", "pages of 5"), ("flash_decode", "keys in 3 parts")])
def test_a_wrong_result_of_paged_decoding_is_seen(monkeypatch, triton_device, computes, kind):
    owner = check if computes == "paged_attention" else importlib.import_module("arriero.kernels.flash_decode")
    right = getattr(owner, computes)
    monkeypatch.setattr(owner, computes, lambda *args, **options: right(*args, **options) + 1e-1)
    chosen = [case for case in paged_cases() if case.name == kind]
    monkeypatch.setattr(check, "paged_cases", lambda: chosen)
    monkeypatch.setattr(check, "cases", lambda full: [])
    checked = [one for one in check_kernels(triton_device, ("triton",)) if one.skipped is None]
    assert checked
    assert not any(one.passed for one in checked)


@pytest.mark.parametrize(
    ("error", "bound"), [(math.nan, 1.0), (1.0, math.nan), (math.nan, math.nan), (1.0, math.inf), (math.inf, math.inf)]
)
def test_nan_and_bounds_without_end_are_no_pass(error, bound):
    one = Checked(implementation="x", case="y", dtype="float32", result="out", error=error, bound=bound)
    assert not one.passed


def test_nan_is_the_furthest_from_its_bound():
    errors = (0.5, math.nan, 2.0)
    results = [
        Checked(implementation="x", case="y", dtype="float32", result="out", error=error, bound=1.0) for error in errors
    ]
    assert math.isnan(max(results, key=lambda one: one.closeness).error)
