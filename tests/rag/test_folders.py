"""Walking folders: order, what is left out, links that loop."""

from collections import Counter

import pytest

from arriero.common.errors import NotFoundError
from arriero.rag.folders import is_document, walk


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def names(folder, *paths, skipped=None):
    return [path.relative_to(folder).as_posix() for path in walk(paths or [folder], skipped)]


def test_files_come_in_order_and_others_are_counted(tmp_path):
    fill(
        tmp_path, "b.md", "a.txt", "sub/z.py", "sub/README", "pic.png", "two.png", ".hidden.txt", "~$open.docx", "data"
    )
    fill(tmp_path, ".git/config.txt", "node_modules/x/y.js", "sub/__pycache__/c.py")
    skipped = Counter()
    assert names(tmp_path, skipped=skipped) == ["a.txt", "b.md", "sub/README", "sub/z.py"]
    assert skipped == {".png": 2, "hidden": 2, "ignored folder": 3, "no suffix": 1}


def test_a_file_that_is_named_comes_whatever_it_is(tmp_path):
    fill(tmp_path, "pic.png", ".hidden.txt", ".git/x.txt")
    assert names(tmp_path, tmp_path / "pic.png", tmp_path / ".hidden.txt") == ["pic.png", ".hidden.txt"]
    assert names(tmp_path, tmp_path / ".git") == [".git/x.txt"]


def test_each_file_comes_once(tmp_path):
    fill(tmp_path, "a/x.txt")
    (tmp_path / "a/link.txt").symlink_to(tmp_path / "a/x.txt")
    assert len(names(tmp_path, tmp_path, tmp_path / "a", tmp_path / "a/x.txt")) == 1


def test_links_that_loop_or_lead_nowhere_end(tmp_path):
    fill(tmp_path, "a/x.txt", "elsewhere/y.txt")
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    (tmp_path / "a/self").symlink_to("self")
    (tmp_path / "a/gone.txt").symlink_to("nowhere.txt")
    (tmp_path / "a/out").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path, tmp_path / "a") == ["a/x.txt", "a/out/y.txt"]


def test_a_missing_path_is_named_with_the_nearest(tmp_path):
    fill(tmp_path, "report.pdf")
    with pytest.raises(NotFoundError, match=r"did you mean report\.pdf\?"):
        list(walk([tmp_path / "reprot.pdf"]))


def test_a_deep_folder_is_walked(tmp_path):
    deep = tmp_path
    for _ in range(200):
        deep = deep / "d"
    fill(deep, "x.txt")
    assert len(names(tmp_path)) == 1


def test_documents_are_told_by_name(tmp_path):
    assert is_document(tmp_path / "A.PDF")
    assert is_document(tmp_path / "LICENSE")
    assert not is_document(tmp_path / "a.png")
    assert not is_document(tmp_path / ".a.txt")
