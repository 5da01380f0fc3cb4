"""The examples in docstrings are run as they stand, with the default model and encoder."""

import doctest
import json
from importlib import import_module
from pathlib import Path

import pytest

from arriero import Model

NOTE = (
    "The train to Cusco leaves San Pedro station at half past seven in the morning. Tickets are sold at the counter. "
    "Llamas travel in the last wagon, and their drivers sit with them.\n"
)


@pytest.mark.weights
@pytest.mark.parametrize(
    "module",
    ["arriero", "arriero.api.model", "arriero.api.documents", pytest.param("arriero.training", marks=pytest.mark.slow)],
)
def test_the_examples_run(module, smollm2_gguf, minilm_folder, tmp_path: Path, monkeypatch):
    assert smollm2_gguf.exists()
    assert minilm_folder.exists()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "journey.txt").write_text(NOTE)
    rows = [
        {"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": "A number."}]}
        for n in range(8)
    ]
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = {"model": Model.load()} if module == "arriero.api.model" else {}
    outcome = doctest.testmod(import_module(module), extraglobs=loaded, optionflags=doctest.REPORT_NDIFF)
    assert outcome.attempted
    assert not outcome.failed
