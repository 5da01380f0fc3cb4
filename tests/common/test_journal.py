"""Rows made a portion at a time survive kills, and come out the same."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arriero.common.errors import FormatError
from arriero.common.journal import fill, write_rows

KILLED = """
import os, signal, sys
from pathlib import Path
from arriero.common.journal import fill

def make(numbers):
    if numbers.start == 6:
        with open(sys.argv[1], "a", encoding="utf-8") as file:
            file.write('{"n": 6, "tex')
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"n": n, "text": "ä" * n} for n in numbers]

fill(Path(sys.argv[1]), 8, 3, make, doing="making", unit="rows")
"""


class Maker:
    """Makes rows, and remembers which."""

    def __init__(self):
        self.made = []

    def __call__(self, numbers):
        self.made += numbers
        return [{"n": n, "text": "ä" * n} for n in numbers]


def take(path: Path, count: int = 8):
    maker = Maker()
    rows = fill(path, count, 3, maker, doing="making", unit="rows")
    return rows, maker.made


def test_rows_are_made_once(tmp_path):
    rows, made = take(tmp_path / "rows.jsonl")
    assert made == [0, 1, 2, 3, 4, 5, 6, 7]
    again, made = take(tmp_path / "rows.jsonl")
    assert again == rows
    assert made == []


def test_killed_while_writing_it_goes_on_behind_the_last_whole_portion(tmp_path):
    path = tmp_path / "rows.jsonl"
    ended = subprocess.run([sys.executable, "-c", KILLED, path], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text(encoding="utf-8").endswith('"tex')
    rows, made = take(path)
    assert made == [6, 7]
    assert rows == take(tmp_path / "whole.jsonl")[0]
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("cut", [0, 1, 30, 70, 150, 210])
def test_wherever_the_file_was_cut_it_becomes_the_same(tmp_path, cut):
    """Also in the middle of a letter, and behind a row of a portion that is not whole."""
    path = tmp_path / "rows.jsonl"
    take(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    _, made = take(path)
    assert made[0] % 3 == 0, "a portion is made whole or not at all"
    assert path.read_bytes() == whole


def test_a_damaged_row_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 0}\nnonsense\n{"n": 2}\n')
    with pytest.raises(FormatError, match="line 2: damaged"):
        take(path)


def test_more_rows_than_asked_for_are_an_error(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"n": n} for n in range(9)])
    with pytest.raises(FormatError, match="at most 8 rows, got 9"):
        take(tmp_path / "rows.jsonl")


def test_rows_are_json_lines_in_utf8(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"text": "🦙\u2028\n"}])
    line = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    assert line.count("\n") == 1
    assert json.loads(line) == {"text": "🦙\u2028\n"}
