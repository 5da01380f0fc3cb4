"""The files of a source: found in a fixed order, by names of their own, and pinned."""

import os
from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.corpus.inputs import Input, check_inputs, find_inputs, group, save_inputs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.txt", "a/1.txt", "a/.hidden", ".git/x", "c.txt"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_text(name)
    return tmp_path / "raw"


def test_a_folder_gives_its_files_by_name_without_hidden_ones(folder: Path) -> None:
    assert [entry.name for entry in find_inputs([folder], whole_folders=False)] == ["a/1.txt", "b/2.txt", "c.txt"]


def test_patterns_and_repetitions_give_each_file_once(folder: Path) -> None:
    found = find_inputs([folder / "*/*.txt", folder / "c.txt", folder / "a" / "1.txt"], whole_folders=False)
    assert [entry.name for entry in found] == ["1.txt", "2.txt", "c.txt"]


def test_a_folder_of_folders_is_one_input_each(folder: Path) -> None:
    (folder / "c.txt").unlink()
    assert [entry.name for entry in find_inputs([folder], whole_folders=True)] == ["a", "b"]
    assert [entry.name for entry in find_inputs([folder / "a"], whole_folders=True)] == ["a"]


def test_nothing_there_is_told(folder: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no such file or folder: .*gone"):
        find_inputs([folder / "gone"], whole_folders=False)
    (folder / "empty").mkdir()
    with pytest.raises(NotFoundError, match="nothing to read in"):
        find_inputs([folder / "empty"], whole_folders=False)


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    (folder / "b" / "1.txt").write_text("x")
    with pytest.raises(ArrieroError, match=r"would both be called '1.txt': name the folder above them"):
        find_inputs([folder / "a" / "1.txt", folder / "b" / "1.txt"], whole_folders=False)


def test_a_name_that_is_no_text_is_told(folder: Path) -> None:
    (folder / "odd").mkdir()
    with open(os.fsencode(folder / "odd") + b"/\xff.txt", "w") as file:  # noqa: PTH123 - a name of bytes
        file.write("x")
    with pytest.raises(ArrieroError, match=r"name is no UTF-8 text: '\\udcff\.txt': rename it"):
        find_inputs([folder / "odd"], whole_folders=False)


def test_groups_are_made_by_size_alone() -> None:
    inputs = [Input(str(number), Path(str(number)), size) for number, size in enumerate([50, 40, 20, 500, 1, 1])]
    assert [[entry.bytes for entry in some] for some in group(inputs, 100)] == [[50, 40], [20], [500], [1, 1]]
    assert group([], 100) == []


def test_inputs_that_changed_are_told(folder: Path, tmp_path: Path) -> None:
    save_inputs(tmp_path / "inputs.json", find_inputs([folder], whole_folders=False))
    check_inputs(tmp_path / "inputs.json", find_inputs([folder], whole_folders=False))
    (folder / "c.txt").write_text("longer than before")
    with pytest.raises(ArrieroError, match=r"begun with other files: 'c.txt' has another size"):
        check_inputs(tmp_path / "inputs.json", find_inputs([folder], whole_folders=False))
    (folder / "c.txt").unlink()
    (folder / "d.txt").write_text("x")
    with pytest.raises(ArrieroError, match=r"'c.txt' is gone \(and 1 more differ\)"):
        check_inputs(tmp_path / "inputs.json", find_inputs([folder], whole_folders=False))
