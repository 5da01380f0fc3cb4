"""The page on rejection sampling: its curve, its tables, and texts that are only text."""

import json

import pytest

from arriero.common.errors import FormatError, NotFoundError
from arriero.report.rejection import curve_rows, render_rejection

CURVE = {
    "prompts": 2,
    "samples": list(range(1, 7)),
    "maximum": [0.0, 0.5, 0.7, 0.8, 0.9, 1.0],
    "maximum_error": [0.1] * 6,
    "median": [0.0] * 6,
    "median_error": [0.1] * 6,
}
RESULT = {
    "iteration": 1,
    "model": "<b>model</b>",
    "reward": "rule:concise",
    "temperature": 0.7,
    "sweep": {"0.7": 1.0, "1.2": 0.5},
    "samples": 6,
    "prompts": 2,
    "curve": CURVE,
    "best_reward": 1.25,
    "best_from": {"1": 2},
}


def write(run, **changes):
    result = RESULT | changes
    (run / f"result-{result['iteration']:03d}.json").write_text(json.dumps(result))


def test_the_page_draws_the_curve_and_lists_every_iteration(tmp_path):
    pytest.importorskip("matplotlib")
    write(tmp_path)
    write(tmp_path, iteration=2, sweep={}, best_reward=None, best_from={"1": 1, "2": 1})
    page = render_rejection(tmp_path)
    assert "<svg" in page
    assert "expected best reward from 0.000 with one sample to 1.000 with 6" in page
    assert "1: 1, 2: 1" in page
    assert "Temperature" not in page, "the last iteration compared none"
    assert "<b>model</b>" not in page


def test_one_prompt_has_no_interval_and_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    write(tmp_path, curve=CURVE | {"maximum_error": None, "median_error": None})
    assert "<svg" in render_rejection(tmp_path)


def test_the_table_has_powers_of_two_and_the_last(tmp_path):
    assert [k for k, _, _ in curve_rows(CURVE)] == [1, 2, 4, 6]


def test_no_run_and_a_damaged_one_are_told(tmp_path):
    with pytest.raises(NotFoundError, match="no finished iteration"):
        render_rejection(tmp_path)
    (tmp_path / "result-001.json").write_text("{")
    with pytest.raises(FormatError, match="damaged"):
        render_rejection(tmp_path)
