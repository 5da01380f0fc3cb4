"""What scorers say of pairs: choice, degree, safety; ties; and that they are marked as what they are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.align.judge import DEGREES, degree_of, judge_pending, safety_of
from arriero.align.preferences import Preferences, Response
from arriero.align.scoring import load_scorer
from arriero.common.errors import ArrieroError
from tests.align.answering import ODD, Judge, ask

LENGTH = Judge(lambda text: float(len(text)))


@pytest.fixture
def opened(tmp_path):
    with Preferences(tmp_path / "p.sqlite", create=True) as preferences:
        for number, (first, second, kind) in enumerate(
            [("aaaa", "a", "helpfulness"), ("a", "aaa", "safety"), ("ab", "cd", "helpfulness"), (ODD, "b", "safety")]
        ):
            prompt = ask(f"{number}?").messages
            preferences.add_pair(prompt, Response(text=first), Response(text=second), kind=kind, source="x")
        yield preferences


def run(preferences, scorer, **changes):
    *_, counts = judge_pending(preferences, scorer, batch="w1", **changes)
    return counts


def test_the_higher_score_is_chosen_and_equal_ones_are_left_and_counted(opened):
    counts = run(opened, LENGTH)
    assert (counts.judged, counts.ties, counts.flagged) == (3, 1, 0)
    judged = list(opened.comparisons())
    assert [one.chosen.text for one in judged] == ["aaaa", "aaa", ODD]
    assert [one.judgement.degree for one in judged] == ["significantly better", "better", "significantly better"]
    assert [one.judgement.safety for one in judged] == [None] * 3
    assert {(one.judgement.judge, one.judgement.annotator, one.judgement.batch) for one in judged} == {
        ("program", "judge", "w1")
    }
    assert len(list(opened.pending("judge"))) == 1
    assert run(opened, LENGTH).judged == 0, "what it has judged it does not judge again"


def test_a_safety_scorer_labels_pairs_of_that_kind_alone(opened):
    counts = run(opened, LENGTH, safety=Judge(lambda text: -1.0 if len(text) == 3 else 1.0, "safe"))
    assert counts.flagged == 1
    judged = list(opened.comparisons(flagged=True))
    assert [one.judgement.safety for one in judged] == [None, "chosen unsafe", "both safe"]
    assert len(list(opened.comparisons())) == 2, "an unsafe choice is left out of training"


def test_only_one_kind(opened):
    assert run(opened, LENGTH, kind="safety").judged == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite_ends_it_and_judges_nothing(opened, value):
    with pytest.raises(ArrieroError, match="judge: expected finite scores"):
        run(opened, Judge(lambda text: value))
    assert not list(opened.comparisons())


def test_a_rule_is_a_program(opened):
    run(opened, load_scorer("rule:readable"), kind="helpfulness")
    assert {one.judgement.judge for one in opened.comparisons()} <= {"program"}


@given(st.floats(0, 1e4), st.floats(0, 1e4))
def test_larger_gaps_have_no_smaller_degrees(one, other):
    names = [degree for _, degree in DEGREES]
    if one < other:
        assert names.index(degree_of(one)) >= names.index(degree_of(other))


@pytest.mark.parametrize("least", [0.60, 0.80, 0.95])
def test_the_bounds_are_chances_that_the_better_is_preferred(least):
    gap = math.log(least / (1 - least))
    assert degree_of(gap + 1e-9) != degree_of(gap - 1e-9)
    assert degree_of(gap + 1e-9) == dict(DEGREES)[least]


def test_gaps_that_are_none_are_errors():
    for gap in (-1.0, math.nan):
        with pytest.raises(ArrieroError, match="gap"):
            degree_of(gap)


@pytest.mark.parametrize(
    ("chosen", "other", "label"),
    [
        (1.0, -1.0, "chosen safe"),
        (0.0, 0.0, "both safe"),
        (-1e4, -1.0, "both unsafe"),
        (-0.1, 1e4, "chosen unsafe"),
    ],
)
def test_the_bins_of_safety(chosen, other, label):
    assert safety_of(chosen, other) == label
