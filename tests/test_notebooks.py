"""Notebooks run from their first cell to their last, and are kept without what they printed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONG = {"style": pytest.mark.slow}
"""It trains."""


def cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {"talk", "documents", "style"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_that_was_printed_is_kept(path: Path):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path))


@pytest.mark.weights
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=LONG.get(path.stem, ())) for path in NOTEBOOKS]
)
def test_the_cells_run_in_order(path: Path, smollm2_gguf, minilm_folder, tmp_path: Path):
    assert smollm2_gguf.exists()
    assert minilm_folder.exists()
    code = "\n\n".join("".join(cell["source"]) for cell in cells(path))
    result = subprocess.run([sys.executable, "-"], input=code, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
