"""The tour of the Python API runs as it stands, and prints what it says."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_examples import NOTE
from tests.documentation import ROOT

PAGE, README = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/python.md", "README.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
"""Code, and what it prints."""


@pytest.fixture
def room(tmp_path: Path, monkeypatch, smollm2_gguf, minilm_folder) -> Path:
    assert smollm2_gguf.exists()
    assert minilm_folder.exists()
    monkeypatch.chdir(tmp_path)
    for name in ("notes", "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "journey.txt").write_text(NOTE)
    return tmp_path


@pytest.mark.weights
def test_the_pages_code_prints_what_the_page_says(room):
    assert room.is_dir()
    names: dict[str, Any] = {}
    for code, expected in BLOCK.findall(PAGE):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue().strip() == expected.strip()
    names["documents"].close()


@pytest.mark.weights
def test_the_readmes_code_runs(room):
    assert room.is_dir()
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for code, _ in BLOCK.findall(README):
            exec(code, names)
    names["documents"].close()
    assert printed.getvalue().count("\n") >= 2


def test_the_page_tells_of_every_function_that_trains():
    import arriero.training

    functions = [name for name in arriero.training.__all__ if name.islower()]
    assert all(f"`{name}`" in PAGE for name in functions)
