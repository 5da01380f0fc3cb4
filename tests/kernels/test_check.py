"""The grid: every implementation within the bound, and an error beyond it is seen."""

import pytest
import torch

from arriero.kernels import check
from arriero.kernels.check import HEAD_DIMS, Checked, cases, check_kernels


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
    failed = {one.result for one in check_kernels("cpu", ("tiled",)) if not one.passed and one.dtype == "float32"}
    assert failed == {"out"}


def test_nan_is_no_pass():
    one = Checked(implementation="x", case="y", dtype="float32", result="out", error=float("nan"), bound=1.0)
    assert not one.passed
    assert torch.isnan(torch.tensor(one.error))
