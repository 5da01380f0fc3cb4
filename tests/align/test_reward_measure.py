"""What a reward model's measures say: by hand, at their edges, and written down and read again."""

import json
import math

import numpy as np
import pytest

from arriero.align.reward_data import TokenPair
from arriero.align.reward_measure import accuracy, calibrate, measure_pairs, read_evaluation, write_evaluation
from arriero.align.win_rate import wilson
from arriero.common.errors import ArrieroError, FormatError

ROW = np.zeros(3, np.int32)


def pair(lengths=(10, 5), **facts):
    return TokenPair(chosen=ROW, rejected=ROW, lengths=lengths, **facts)


def measured(pairs, scores, kind="helpfulness"):
    return measure_pairs("mine", kind, pairs, np.array(scores, np.float64))


def test_ties_are_counted_apart_and_never_right():
    found = accuracy(np.array([1.0, 0.0, -1.0, 0.0]))
    assert (found.count, found.right, found.ties, found.share) == (4, 1, 2, 0.25)
    assert (found.low, found.high) == wilson(1, 4)


def test_a_model_of_one_score_for_all_is_never_right_and_as_sure_of_nothing():
    found = measured([pair()] * 5, [[0.7, 0.7]] * 5)
    assert (found.accuracy.right, found.accuracy.ties) == (0, 5)
    assert found.loss == pytest.approx(math.log(2))
    assert (found.bins, found.calibration_error, found.length_correlation) == ([], 0.0, None)


def test_the_rules_of_length_go_by_characters_and_tie_at_equal_ones():
    found = measured([pair((9, 5)), pair((5, 9)), pair((4, 4)), pair((8, 1))], [[1, 0]] * 4)
    assert (found.longer.right, found.longer.ties) == (2, 1)
    assert (found.shorter.right, found.shorter.ties) == (1, 1)


def test_accuracy_is_told_by_degree_and_source_and_only_of_the_own_kind():
    pairs = [
        pair(degree="negligibly better", source="a"),
        pair(degree="significantly better", source="b"),
        pair(source="b"),
        pair(source="c", kind="safety"),
    ]
    found = measured(pairs, [[0, 1], [1, 0], [2, 0], [0, 5]])
    assert found.accuracy.count == 3
    assert {name: one.share for name, one in found.degrees.items()} == {
        "significantly better": 1.0, "negligibly better": 0.0, "untold": 1.0,
    }  # fmt: skip
    assert list(found.degrees) == ["significantly better", "negligibly better", "untold"]
    assert {name: one.count for name, one in found.kinds.items()} == {"helpfulness": 3, "safety": 1}
    assert {name: one.right for name, one in found.sources.items()} == {"a": 0, "b": 2, "c": 0}


def test_a_model_that_is_right_as_often_as_it_is_sure_is_calibrated():
    sure = math.log(3)  # σ is 3/4
    found = calibrate(np.array([sure, sure, sure, -sure]))
    assert [(one.count, one.right) for one in found] == [(4, 0.75)]
    assert found[0].sure == pytest.approx(0.75)
    surer = measured([pair()] * 2, [[20.0, 0.0], [0.0, 20.0]])
    assert surer.calibration_error == pytest.approx(0.5, abs=1e-6)


def test_scores_far_apart_do_not_overflow():
    found = measured([pair()] * 2, [[1e4, -1e4], [-1e4, 1e4]])
    assert found.loss == pytest.approx(1e4)
    assert [one.sure for one in found.bins] == [1.0]


def test_scores_that_grow_with_length_are_found_out():
    pairs = [pair((n + 20, n)) for n in range(20)]
    found = measured(pairs, [[n + 20, n] for n in range(20)])
    assert found.length_correlation == pytest.approx(1.0)
    assert [one.count for one in found.length_groups] == [5] * 8
    assert [one.score for one in found.length_groups] == [one.characters for one in found.length_groups]


def test_one_pair_is_enough():
    found = measured([pair()], [[1.0, 0.0]])
    assert [one.error for one in found.length_groups] == [0.0, 0.0]
    assert sum(found.histogram.chosen) == sum(found.histogram.rejected) == 1


def test_safety_is_told_by_the_sign_of_a_score_and_only_where_it_is_known():
    pairs = [pair(kind="safety", safe=(1, 0)), pair(kind="safety", safe=(0, 0)), pair(kind="safety")]
    found = measured(pairs, [[2.0, -1.0], [0.5, -0.5], [9.0, -9.0]], "safety").safety
    assert (found.count, found.right) == (4, 3)
    assert measured([pair()], [[1.0, 0.0]]).safety is None


def test_without_a_pair_of_the_kind_there_is_nothing_to_measure():
    with pytest.raises(ArrieroError, match="none of 1 pairs is of safety"):
        measured([pair()], [[1.0, 0.0]], "safety")


def test_what_is_written_is_read_again(tmp_path):
    pairs = [pair(kind="safety", safe=(1, 0), degree="better", source="s"), pair((3, 9), kind="safety")]
    found = measured(pairs, [[2.0, -1.0], [0.5, 0.75]], "safety")
    write_evaluation(found, tmp_path / "e.json")
    assert read_evaluation(tmp_path / "e.json") == found


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"accuracy": {"share": 1}})])
def test_a_damaged_evaluation_is_named(tmp_path, text):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(FormatError, match=r"e\.json: no evaluation of a reward model"):
        read_evaluation(tmp_path / "e.json")
