"""The diary: whole lines, numbers that JSON has no word for, lines that a kill cut off, and lines made again."""

import json
import math
from pathlib import Path

import pytest

from arriero.common.errors import FormatError
from arriero.train.run_log import RunLog


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(tmp_path)


def test_a_line_has_its_kind_its_step_and_the_time(log: RunLog, tmp_path: Path) -> None:
    log.write("step", 3, loss=0.5, source_tokens={"plays": 7})
    (line,) = lines(tmp_path)
    assert line.pop("time") > 1e9
    assert line == {"kind": "step", "step": 3, "loss": 0.5, "source_tokens": {"plays": 7}}


def test_numbers_that_are_not_finite_become_null(log: RunLog, tmp_path: Path) -> None:
    log.write("step", 1, loss=math.nan, deep={"rows": [{"x": math.inf}, (-math.inf, 2.0)]})
    (line,) = lines(tmp_path)
    assert line["loss"] is None
    assert line["deep"] == {"rows": [{"x": None}, [None, 2.0]]}


def test_what_a_later_step_wrote_is_forgotten(log: RunLog, tmp_path: Path) -> None:
    log.write("start", 0)
    for step in range(1, 6):
        log.write("step", step)
    log.forget_after(3)
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3]


def test_a_line_that_a_kill_cut_off_is_forgotten(log: RunLog, tmp_path: Path) -> None:
    log.write("step", 1, loss=1.0)
    with log.path.open("a") as file:
        file.write('{"kind": "step", "st')
    log.forget_after(1)
    log.write("step", 2, loss=2.0)
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, 2.0]


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"kind": "step"}', '{"kind": "step", "step": "two"}'])
def test_a_damaged_line_is_named(log: RunLog, line: str) -> None:
    log.write("start", 0)
    with log.path.open("a") as file:
        file.write(line + "\n")
    log.write("step", 1)
    with pytest.raises(FormatError, match=r"metrics\.jsonl, line 2: damaged"):
        log.forget_after(0)


def test_the_last_of_a_kind_is_found(log: RunLog) -> None:
    assert log.last("step") is None
    for step in range(3):
        log.write("step", step)
        log.write("energy", step, joules=1.0)
    assert log.last("step")["step"] == 2
    assert log.last("validation") is None


def test_without_a_diary_there_is_nothing_to_forget(log: RunLog) -> None:
    log.forget_after(0)
    assert not log.path.exists()


def test_trackers_get_the_numbers_of_steps_and_validations(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log = RunLog(tmp_path, ("tensorboard",))
    log.write("step", 1, loss=0.5, source_tokens={"plays": 7}, mfu=None)
    log.write("energy", 1, joules=3.0)
    assert any((tmp_path / "tensorboard").iterdir())
