"""`arriero kernels io`."""

import json
import sys

import pytest


def test_a_table_that_says_it_counts(run):
    code, out, _ = run("kernels", "io")
    assert code == 0
    assert out.count("tiled, keys outside") == out.count("butterfly") == 2
    assert "1.00×" in out
    assert "Counts, not measurements: one head, N = 1,024, d = 64, M = 51,200 elements (100 KiB of float16)" in out


def test_json_and_files(run, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = run("kernels", "io", "--dtype", "float32", "--json", "--output", tmp_path / "made")
    assert code == 0
    facts = json.loads(out)
    assert facts == json.loads((tmp_path / "made" / "io.json").read_text(encoding="utf-8"))
    assert (facts["sram_elements"], len(facts["rows"])) == (25_600, 8)
    first = facts["rows"][0]
    assert (first["pass"], first["algorithm"], first["of_standard"]) == ("forward", "standard", 1)
    assert first["bytes"] == 4 * first["total"] == 4 * (first["reads"] + first["writes"])
    assert (tmp_path / "made" / "io.png").read_bytes().startswith(b"\x89PNG")
    assert "wrote io.json and io.png" in err


def test_without_matplotlib_all_but_the_figure(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run("kernels", "io", "--output", tmp_path)
    assert code == 0
    assert "butterfly" in out
    assert [path.name for path in tmp_path.iterdir()] == ["io.json"]
    assert "no io.png" in err
    assert "pip install 'arriero[plots]'" in err


def test_few_tokens_still_make_a_figure(run, tmp_path):
    pytest.importorskip("matplotlib")
    assert run("kernels", "io", "--tokens", "20", "--sram-kib", "1", "--output", tmp_path).code == 0
    assert (tmp_path / "io.png").is_file()


def test_a_mistake_is_one_line(run):
    code, out, err = run("kernels", "io", "--tokens", "512")
    assert (code, out) == (2, "")
    assert err == "arriero: error: sram: expected d to N · d elements, 64 to 32768, got 51200\n"
