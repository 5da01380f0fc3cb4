"""Text that every machine has: found, read without being imported, and laid out whole or not at all."""

import errno

import pytest

from arriero.cli.road import texts
from arriero.cli.road.texts import docstrings, modules, readmes, topics, write_raw
from arriero.common.errors import ArrieroError


def test_every_machine_has_enough_of_each_kind():
    assert len(topics()) > 70
    assert len(modules()) > 100
    assert len(readmes()) > 10


def test_docstrings_are_those_of_public_names_with_their_modules(tmp_path):
    file = tmp_path / "shapes.py"
    file.write_text(
        '"""Shapes."""\nclass Square:\n    """Of four sides."""\n    def area(self):\n        """Its area."""\n'
        '        def inner():\n            """Not told."""\n    def _hidden(self):\n        """Not told."""\n'
    )
    found = [(each.name, each.kind, each.text) for each in docstrings([file])]
    assert found == [
        ("shapes", "module", "Shapes."),
        ("shapes.Square", "class", "Of four sides."),
        ("shapes.Square.area", "function", "Its area."),
    ]


def test_a_file_of_another_version_of_python_is_passed_over(tmp_path):
    file = tmp_path / "old.py"
    file.write_text("print 'two'\n")
    assert list(docstrings([file])) == []


def test_a_library_without_sources_is_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(ArrieroError, match="install your distribution's full Python"):
        modules()


def test_sources_are_laid_out_once_with_the_licence_beside_the_code(tmp_path):
    write_raw(tmp_path / "raw", 5)
    code = sorted(path.name for path in (tmp_path / "raw" / "code" / "python").glob("*.py"))
    assert 1 <= len(code) <= 5
    assert {path.name for path in (tmp_path / "raw").iterdir()} == {"code", "docstrings", "reference", "readmes"}
    (tmp_path / "raw" / "mark").touch()
    write_raw(tmp_path / "raw", 5)
    assert (tmp_path / "raw" / "mark").exists()


def test_what_another_process_laid_out_in_the_meantime_stays(tmp_path, monkeypatch):
    def topics_while_another_is_faster():
        (tmp_path / "raw").mkdir()
        (tmp_path / "raw" / "theirs").touch()
        return {}

    monkeypatch.setattr(texts, "topics", topics_while_another_is_faster)
    write_raw(tmp_path / "raw", 5)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_full_disk_is_no_fault_of_the_library(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_raw(tmp_path / "raw", 5)
    assert raised.value.filename is None
    assert not any(tmp_path.iterdir())
