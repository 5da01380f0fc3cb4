"""Parsing in a child: the same documents, and a child that hangs or dies costs one file."""

import os
import signal

import pytest

from arriero.common.errors import FormatError, NotFoundError
from arriero.parsers.isolation import ParserProcess
from arriero.parsers.limits import ParseLimits
from arriero.parsers.parse import parse_file


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "ö a.md"
    path.write_text("# Title\n\nWords, שלום, 你好, 👩\u200d👧.")
    return path


def test_a_child_gives_the_same_document_and_errors(text, tmp_path):
    with ParserProcess() as parser:
        assert parser.parse(text) == parse_file(text)
        assert parser.parse(text, name="n") == parse_file(text, name="n")
        (tmp_path / "x.pdf").write_bytes(b"words")
        with pytest.raises(FormatError, match=r"x\.pdf: not a PDF file"):
            parser.parse(tmp_path / "x.pdf")
        with pytest.raises(NotFoundError):
            parser.parse(tmp_path / "absent")
        child = parser._child.pid
        assert parser.parse(text).name == "ö a.md"
        assert parser._child.pid == child


def test_a_hanging_child_is_killed_and_the_next_file_is_parsed(text):
    with ParserProcess(ParseLimits(max_seconds=20)) as parser:
        parser.parse(text)
        os.kill(parser._child.pid, signal.SIGSTOP)
        parser.grace_seconds = -19.5
        with pytest.raises(FormatError, match="longer than 20 s"):
            parser.parse(text)
        parser.grace_seconds = 10
        assert parser.parse(text).name == "ö a.md"


def test_a_crash_is_an_error_of_the_file(text, monkeypatch, tmp_path):
    with ParserProcess() as parser:
        parser.parse(text)
        child = parser._child
        pipe = tmp_path / "large.txt"
        pipe.write_bytes(b"x y " * 5_000_000)
        request = parser._start

        def start_and_kill():
            process = request()
            process.send_signal(signal.SIGSEGV)
            return process

        monkeypatch.setattr(parser, "_start", start_and_kill)
        with pytest.raises(FormatError, match=r"large\.txt: .*crashed \(SIGSEGV\)"):
            parser.parse(pipe)
        monkeypatch.undo()
        assert parser.parse(text).name == "ö a.md"
        assert parser._child is not child


def test_a_child_out_of_memory_refuses_the_file(tmp_path):
    path = tmp_path / "large.txt"
    path.write_bytes(b"x y " * 15_000_000)
    with (
        ParserProcess(ParseLimits(max_memory=160 * 1024**2, max_characters=10**9)) as parser,
        pytest.raises(FormatError, match=r"large\.txt: .*(out of memory|MemoryError)"),
    ):
        parser.parse(path)
