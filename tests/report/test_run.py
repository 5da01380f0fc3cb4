"""Reading a run's diary, whatever state it is in."""

import json
import math

import pytest

from arriero.common.errors import NotFoundError
from arriero.report.run import column, number, read_run
from tests.report.diary import event, sample, start, step, validation, whole_run, write


def test_a_whole_run_is_read_by_kind(tmp_path):
    run = read_run(write(tmp_path / "walk", whole_run(200)))
    assert (run.name, len(run.steps), len(run.validations), len(run.samples)) == ("walk", 200, 2, 2)
    assert (run.last["step"], len(run.mixture), run.damaged_lines) == (200, 3, 0)
    assert run.config.startswith('model = "tiny-15m"')


def test_a_last_line_that_is_not_whole_is_passed_over_and_counted(tmp_path):
    run = read_run(write(tmp_path, [start(), step(1)], '{"kind": "step", "st'))
    assert (len(run.steps), run.damaged_lines) == (1, 1)


@pytest.mark.parametrize("line", ["[1, 2]", "null", '{"kind": "step"}', '{"step": "1"}', '{"step": true}', "[" * 99999])
def test_lines_of_another_kind_are_passed_over(tmp_path, line):
    run = read_run(write(tmp_path, [step(1)], line + "\n"))
    assert (len(run.steps), run.damaged_lines) == (1, 1)


def test_bytes_that_are_no_utf8_do_no_harm(tmp_path):
    write(tmp_path, [step(1)])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\x00\n")
    assert len(read_run(tmp_path).steps) == 1


def test_after_a_roll_back_the_steps_done_again_count(tmp_path):
    first = [step(1), step(2), validation(2), sample(2, "old"), step(3, loss=99.0)]
    again = [event(3, "rollback", "to step 1"), step(2), sample(2, "new"), step(3, loss=3.0)]
    run = read_run(write(tmp_path, first + again))
    assert [line["step"] for line in run.steps] == [1, 2, 3]
    assert run.last["loss"] == 3.0
    assert [line["text"] for line in run.samples] == ["new"]
    assert run.validations == []
    assert len(run.events) == 1


@pytest.mark.parametrize("value", [None, "7", True, [7], math.inf, 10**400])
def test_what_is_no_finite_number_counts_as_missing(value):
    assert math.isnan(number({"loss": value}, "loss"))


def test_a_column_has_a_place_for_every_line():
    assert column([{"x": 1}, {}, {"x": 2.5}], "x")[::2] == [1.0, 2.5]


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere is no folder: expected a run's"):
        read_run(tmp_path / "nowhere")


def test_a_folder_without_a_diary_is_refused(tmp_path):
    (tmp_path / "config.toml").write_text(json.dumps("x"))
    with pytest.raises(NotFoundError, match=r"has no metrics\.jsonl"):
        read_run(tmp_path)
