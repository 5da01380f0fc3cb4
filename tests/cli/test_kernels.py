"""`arriero kernels check`: a table, an exit code, and one line for what it can't do."""

import importlib
import json
import sys

import pytest
import torch

from arriero.cli.main import main
from arriero.kernels import check


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(check, "cases", lambda full=False: [check.Case(name="one", shape=(1, 8, 8, 2, 1, 16))])
    monkeypatch.setattr(check, "paged_cases", list)


def test_a_table_of_the_worst_and_exit_0(few, capsys):
    assert main(["kernels", "check", "--implementations", "tiled", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "nearest to its bound" in out
    assert "CPU: 12 results within the bound, 0 over it" in out


def test_every_result_on_demand(few, capsys):
    assert main(["kernels", "check", "--implementations", "sdpa", "--device", "cpu", "--all"]) == 0
    assert capsys.readouterr().out.count(" dk ") >= 3


def test_json_for_scripts(few, capsys):
    assert main(["kernels", "check", "--implementations", "tiled", "--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["failed"] == 0
    assert {one["result"] for one in told["checked"]} == {"out", "dq", "dk", "dv"}


def test_an_error_over_the_bound_is_shown_and_exits_1(few, monkeypatch, capsys):
    right = check.attention
    monkeypatch.setattr(check, "attention", lambda *qkv, **options: right(*qkv, **options) + 1e-2)
    assert main(["kernels", "check", "--implementations", "tiled", "--device", "cpu"]) == 1
    assert "over the bound" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_nan_among_the_results_is_the_worst_of_them_and_exits_1(few, monkeypatch, capsys, wrong):
    def first_is_wrong(*qkv, **options):
        out = right(*qkv, **options)
        return out + wrong if out.dtype == torch.float32 else out

    right = check.attention
    monkeypatch.setattr(check, "attention", first_is_wrong)
    assert main(["kernels", "check", "--implementations", "tiled", "--device", "cpu"]) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith(f"tiled float32 4 out, one {wrong:.1e} ") for line in lines)
    assert lines[-1] == "CPU: 11 results within the bound, 1 over it"
    assert main(["kernels", "check", "--implementations", "tiled", "--device", "cpu", "--json"]) == 1
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert told["failed"] == 1
    assert [one["result"] for one in told["checked"] if one["error"] is None] == ["out"]


def test_an_implementation_that_cannot_run_here_is_one_line_and_no_success(monkeypatch, capsys):
    module = importlib.import_module("arriero.kernels.attention")
    monkeypatch.setattr(module, "_why_no_triton", module._why_no_triton.__wrapped__)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert main(["kernels", "check", "--implementations", "triton", "--device", "cpu"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "arriero: error: nothing can be checked here: triton: the package 'triton' is missing: "
        "pip install 'arriero[triton]'\n"
    )


def test_one_that_cannot_run_beside_one_that_can_is_noted(few, monkeypatch, capsys):
    module = importlib.import_module("arriero.kernels.attention")
    monkeypatch.setattr(module, "_why_no_triton", module._why_no_triton.__wrapped__)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert main(["kernels", "check", "--device", "cpu"]) == 0
    told = capsys.readouterr()
    assert "triton left out some calls (bfloat16, float16, float32): the package 'triton' is missing" in told.err
    assert "24 results within the bound" in told.out


def test_an_unknown_implementation_is_one_line(capsys):
    assert main(["kernels", "check", "--implementations", "tilde"]) == 2
    assert "expected some of tiled, triton, sdpa, got 'tilde' (did you mean tiled?)" in capsys.readouterr().err


def test_a_device_that_cannot_compute_is_one_line(capsys):
    assert main(["kernels", "check", "--device", "meta"]) == 2
    assert capsys.readouterr().err == "arriero: error: device: expected cpu or cuda, got meta; give --device cpu\n"
