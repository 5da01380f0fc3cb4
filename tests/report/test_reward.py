"""The page of a reward model: its numbers are the evaluation's, and names are text."""

import numpy as np
import pytest

from arriero.align.reward_data import TokenPair
from arriero.align.reward_measure import measure_pairs
from arriero.report.reward import accuracy_rows, render_reward

ROW = np.zeros(3, np.int32)


def evaluation(name="mine", kind="helpfulness", scores=((1, 0), (0, 1), (2, 0), (0.5, 0.5)), **facts):
    settings = {"degree": "better", "source": "<i>set</i>", "kind": kind} | facts
    pairs = [TokenPair(chosen=ROW, rejected=ROW, lengths=(n + 5, 2 * n + 3), **settings) for n in range(len(scores))]
    return measure_pairs(name, kind, pairs, np.array(scores, np.float64))


def test_the_page_shows_accuracy_calibration_scores_and_lengths():
    pytest.importorskip("matplotlib")
    page = render_reward(evaluation())
    assert page.count("<svg") == 4
    assert "50.0%" in page
    assert "2 of 4, 1 tie" in page
    assert "Accuracy: all 50%, better 50%; rules: the longer one 50%, the shorter one 25%" in page
    assert "Safety told" not in page


def test_names_of_models_and_sources_are_text():
    page = render_reward(evaluation("<b>mine</b>"))
    assert "<b>mine" not in page
    assert "&lt;i&gt;set&lt;/i&gt;" in page
    assert "<i>set" not in page


def test_safety_that_is_told_has_a_row_and_a_tile():
    found = evaluation(kind="safety", safe=(1, 0))
    assert [row[0] for row in accuracy_rows(found)][-1] == "safe or unsafe"
    assert "Safety told" in render_reward(found)


def test_a_model_that_always_ties_and_one_pair_are_drawn_too():
    assert "Calibration error" in render_reward(evaluation(scores=((1, 1), (1, 1))))
    assert "100.0%" in render_reward(evaluation(scores=((1, 0),)))


def test_without_matplotlib_the_numbers_are_there(monkeypatch):
    monkeypatch.setattr("arriero.report.figures.missing_extra", lambda: "install it")
    page = render_reward(evaluation())
    assert "<svg" not in page
    assert "install it" in page
    assert "2 of 4" in page
