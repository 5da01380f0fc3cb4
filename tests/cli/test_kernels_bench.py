"""`arriero kernels bench`, with tiny sizes."""

import json
import sys

import pytest

TINY = ("kernels", "bench", "--lengths", "16", "--cases", "dense", "--heads", "2", "--kv-heads", "1", "--head-dim", "8")
TINY = (*TINY, "--repeats", "1", "--device", "cpu")


def test_a_table_of_all_that_was_measured(run):
    code, out, err = run(*TINY, "--lengths", "32", "--cases", "gqa")
    assert code == 0
    assert "threads" in out
    assert "2 heads on 1 KV heads if grouped, head dim 8" in out
    assert out.count("tiled") == out.count("reference") == 2 * 2 * 2
    assert out.count("peer         peer") == 2 * 2 * 2
    assert "Measuring" in err


def test_json_and_files(run, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = run(*TINY, "--json", "--output", tmp_path / "made")
    assert code == 0
    facts = json.loads(out)
    assert facts == json.loads((tmp_path / "made" / "bench.json").read_text())
    assert {"processor", "cpus", "threads", "python", "torch"} <= set(facts["machine"])
    assert (facts["heads"], facts["dtype"]) == (2, "float32")
    assert {row["implementation"] for row in facts["rows"]} == {"reference", "tiled", "sdpa"}
    assert (tmp_path / "made" / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert "wrote bench.json and bench.png" in err


def test_without_matplotlib_all_but_the_figure(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run(*TINY, "--output", tmp_path)
    assert code == 0
    assert "tiled" in out
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    assert "no bench.png" in err
    assert "pip install 'arriero[plots]'" in err


def test_where_the_reference_is_left_out_is_told(run, monkeypatch):
    from arriero.kernels import bench

    assert "left out" not in run(*TINY).out
    monkeypatch.setattr(bench, "LARGEST_SCORES", 2 * 16**2)
    code, out, _ = run(*TINY, "--lengths", "32", "--lengths", "24")
    assert code == 0
    assert out.splitlines()[-1] == "The reference is left out at N = 24, 32: more than 512 scores at once."
    assert json.loads(run(*TINY, "--lengths", "32", "--json").out)["without_reference"] == [32]


def test_a_mistake_is_one_line(run):
    code, out, err = run(*TINY, "--cases", "packed")
    assert (code, out) == (2, "")
    assert err == "arriero: error: lengths: expected 64 or more for packed documents, got 16\n"


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_measured(run, tmp_path):
    (tmp_path / "file").write_text("here")
    code, out, err = run(*TINY, "--output", tmp_path / "file")
    assert (code, out) == (2, "")
    assert err == f"arriero: error: {tmp_path / 'file'}: File exists\n"
