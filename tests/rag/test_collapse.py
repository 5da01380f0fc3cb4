"""Retrieval that no longer tells questions apart raises an alarm."""

import math

import pytest

from arriero.rag.collapse import collapse_alarm, retrieval_state

UNIFORM = [[0.5, 0.5]] * 3


def test_distinct_documents_entropy_and_what_was_kept():
    state = retrieval_state([[1, 2], [1, 3], [4, 5]], [[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]], [[1, 2], [3, 9], [8, 7]])
    assert state.distinct == pytest.approx(5 / 6)
    assert state.entropy == pytest.approx(2 * math.log(2) / 3)
    assert state.kept == pytest.approx((1 + 0.5 + 0) / 3)
    assert set(state.to_dict()) == {"retrieval_distinct", "retrieval_entropy", "retrieval_kept"}


def test_the_alarm_is_for_questions_that_come_to_find_the_same():
    own, same = [[1, 2], [3, 4], [5, 6]], [[1, 2]] * 3
    before, after = (retrieval_state(found, UNIFORM, own) for found in (own, same))
    assert collapse_alarm(before, before) is None
    alarm = collapse_alarm(after, before)
    assert alarm is not None
    assert "0.33 distinct documents per one retrieved, 1.00 before" in alarm
