"""The page of Ghost Attention."""

import pytest

from arriero.align.attention_map import AttentionMap
from arriero.align.ghost_measure import Adherence, Kept
from arriero.report.ghost import render_ghost, share

BAD = "<script>alert('llama')</script>"


def adherence(model: str, where: str, *kept: int) -> Adherence:
    turns = tuple(
        Kept(turn=turn, kept=count, answers=4 if count >= 0 else 0, low=0.1, high=0.9)
        for turn, count in enumerate(kept, start=1)
    )
    return Adherence(model=model, where=where, turns=turns, survived=1.5)


def test_models_stand_beside_each_other_by_turn():
    pytest.importorskip("matplotlib")
    rows = [adherence("before", "first", 4, 1), adherence("before", "never", 0, 0), adherence("after", "first", 4, 3)]
    maps = [AttentionMap("before", [0, 0.2, 0.5], [(1, 3)]), AttentionMap("after", [0, 0.9, 0.7], [(1, 3)])]
    page = render_ghost(rows, maps, "Act as Napoleon.")
    assert page.count("<svg") == 2
    assert "<td>75%</td>" in page
    assert "<td>0.800</td>" in page
    assert "Act as Napoleon." in page
    assert '<i class="c1"></i>after' in page


def test_turns_that_no_dialogue_reached_are_dashes():
    pytest.importorskip("matplotlib")
    page = render_ghost([adherence("m", "first", 4, -1)], [], "")
    assert "<td>–</td>" in page
    assert share(None) == "–"


def test_texts_are_text():
    page = render_ghost([adherence(BAD, "first", 4)], [AttentionMap(BAD, [0.0, 0.1], [(0, 2)])], BAD)
    assert "<script>" not in page
