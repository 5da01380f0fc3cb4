"""`arriero doctor`."""

import json
import socket
import sys

import pytest

from arriero.cli import doctor_facts
from arriero.common.extras import Extra


def facts(run):
    return json.loads(run("doctor", "--json").out)


def test_it_tells_what_is_here_and_succeeds(run, monkeypatch, tmp_path):
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path / "cache"))
    code, out, err = run("doctor")
    assert code == 0
    for told in ("PyTorch", "attention by tiled", "rag", "faiss-cpu", "llama2-7b", "qlora", "finds port"):
        assert told in out
    assert "arriero: error" not in err
    assert not (tmp_path / "cache").exists()


def test_a_missing_extra_is_told_with_what_installs_it(run, monkeypatch):
    rag = Extra("rag", ("faiss-cpu",), ("faiss-cpu<2,>=1.9",))
    extras = [Extra("", ("torch",), ()), Extra("dev", ("ruff",), ("ruff<0.18,>=0.8",)), rag]
    monkeypatch.setattr(doctor_facts, "read_extras", lambda: extras)
    code, out, _ = run("doctor")
    assert code == 0
    assert "pip install 'arriero[rag]'  for faiss-cpu<2,>=1.9" in out
    assert "ruff" not in out  # for work on arriero itself


def test_what_all_commands_need_and_is_broken_is_one_line_and_exit_code_1(run, monkeypatch):
    monkeypatch.setattr(doctor_facts, "read_extras", lambda: [Extra("", ("gguf",), ("gguf<0.20,>=0.17",))])
    code, _, err = run("doctor", "--json")
    assert code == 1
    message = "a package that arriero needs is missing or of another version: gguf<0.20,>=0.17: pip install 'arriero'"
    assert err == f"arriero: error: {message}\n"


def test_a_cache_that_is_no_folder_is_broken(run, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path / "file"))
    assert run("doctor").code == 1


def test_without_pytorch_it_tells_the_rest(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = run("doctor")
    assert code == 1
    assert "PyTorch can't be imported" in err
    assert "faiss-cpu" in out
    assert "llama2-7b" not in out


def test_more_memory_fits_more(run, monkeypatch):
    monkeypatch.setattr(doctor_facts, "free_memory", lambda: 9 * 2**30)
    fits = facts(run)["fits"]["llama2-7b"]
    assert [bool(held["context"]) for held in fits["weights"].values()] == [False, False, True, True]
    assert fits["weights"]["int8"]["context"] < fits["weights"]["int4"]["context"] <= 4096
    assert not fits["training"]["qlora"]["fits"]  # the model is read in float32 before it is quantised
    monkeypatch.setattr(doctor_facts, "free_memory", lambda: 30 * 2**30)
    assert facts(run)["fits"]["llama2-7b"]["training"]["qlora"]["fits"]


def test_a_port_that_is_taken_is_told(run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr("arriero.cli.serve.ServeConfig.port", taken.getsockname()[1])
        told = facts(run)["server"][f"finds port {taken.getsockname()[1]} free"]
    assert told == "another program listens there: give --port"


@pytest.mark.parametrize(("display", "opens"), [("", False), (":0", True)])
def test_a_browser_needs_a_display(run, monkeypatch, display, opens):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert (facts(run)["server"]["opens a browser"] is None) is opens
