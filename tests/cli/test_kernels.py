"""`arriero kernels check`: a table, an exit code, and one line for what it can't do."""

import json

import pytest

from arriero.cli.main import main
from arriero.kernels import check


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(check, "cases", lambda full=False: [check.Case(name="one", shape=(1, 8, 8, 2, 1, 16))])


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


def test_an_unknown_implementation_is_one_line(capsys):
    assert main(["kernels", "check", "--implementations", "tilde"]) == 2
    assert "expected some of tiled, triton, sdpa, got 'tilde' (did you mean tiled?)" in capsys.readouterr().err
