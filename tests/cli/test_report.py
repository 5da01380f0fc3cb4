"""`arriero report`."""

import json
import sys

import pytest

from tests.report.diary import whole_run, write

pytest.importorskip("matplotlib")


def test_a_run_gets_its_page_beside_its_diary(run, tmp_path):
    folder = write(tmp_path / "walk", whole_run(50))
    code, out, _ = run("report", folder)
    assert (code, out) == (0, f"{folder / 'report.html'}\n")
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_the_page_is_replaced_as_the_run_goes_on(run, tmp_path):
    folder = write(tmp_path / "walk", whole_run(50))
    run("report", folder)
    write(folder, whole_run(60))
    assert run("report", folder).code == 0
    assert "60" in (folder / "report.html").read_text()


def test_json_tells_the_numbers(run, tmp_path):
    folder = write(tmp_path / "walk", whole_run(50))
    facts = json.loads(run("report", folder, "--json").out)
    assert facts["runs"][0]["steps"] == 50
    assert facts["runs"][0]["validation_loss"] is None
    assert facts["runs"][0]["energy"]["source"] == "measured by the GPUs' sensors (NVML)"


def test_several_runs_go_into_a_file_of_their_own(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [write(tmp_path / name, whole_run(30)) for name in ("walk", "trot")]
    assert run("report", *folders).out == "comparison.html\n"
    assert not (folders[0] / "report.html").exists()


def test_without_matplotlib_tables_stand_for_the_curves(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = write(tmp_path / "walk", whole_run(50))
    code, out, err = run("report", folder)
    assert (code, out) == (0, f"{folder / 'report.html'}\n")
    assert "pip install 'arriero[plots]'" in err
    page = (folder / "report.html").read_text()
    assert "The curves stand here in numbers only" in page
    assert "<svg" not in page
    assert page.count("In numbers</summary>") == 6


@pytest.mark.parametrize(
    ("make", "argv", "message"),
    [
        (False, ["walk"], "walk is no folder: expected a run's"),
        (True, ["walk/inner"], "has no metrics.jsonl: expected the folder of a run that has begun"),
        (True, ["walk", "--out", "walk"], "--out: expected the name of a file, got the folder"),
        (False, [], "RUN"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, monkeypatch, make, argv, message):
    monkeypatch.chdir(tmp_path)
    if make:
        write(tmp_path / "walk", whole_run(3))
        (tmp_path / "walk" / "inner").mkdir()
    code, out, err = run("report", *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
