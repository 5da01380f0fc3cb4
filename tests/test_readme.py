"""Every command in the README runs, in order, as a newcomer would type it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_quickstart import EXPECTED

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
LINES = [line.partition("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if line]
ELSEWHERE = ("make ", "pip install", "git clone")
"""Commands that build an environment: `make` targets are checked below, the rest is what CI itself does."""


def test_the_readme_has_commands():
    assert any(command.startswith("arriero quickstart") for command in COMMANDS)
    assert any(command.startswith("make quickstart") for command in COMMANDS)


def test_every_make_target_of_the_readme_exists():
    targets = [target for command in COMMANDS if command.startswith("make ") for target in command.split()[1:]]
    listed = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr


@pytest.mark.weights
@pytest.mark.timeout(600)
def test_every_arriero_command_of_the_readme_runs(tmp_path, smollm2_gguf, minilm_folder):
    assert smollm2_gguf.exists()
    assert minilm_folder.exists()
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "CONTRIBUTING.md", tmp_path / "docs")  # "your own folder", as the README calls it
    asked = [{"role": "user", "content": f"What is {n} and {n}?"} for n in range(12)]
    answers = [{"role": "assistant", "content": f"{n} and {n} is {2 * n}."} for n in range(12)]
    rows = [json.dumps({"messages": list(pair)}) for pair in zip(asked, answers, strict=True)]
    (tmp_path / "examples.jsonl").write_text("\n".join(rows))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in COMMANDS:
        if command.startswith(ELSEWHERE):
            continue
        if command.startswith("arriero serve"):
            command += " --print-config"  # it would serve until it is stopped
        result = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        if command == "arriero quickstart":
            assert all(phrase in result.stdout for phrase in EXPECTED)
            assert result.stdout.count("[1] python/topics/") == len(EXPECTED)
            assert "arriero rag add PATH" in result.stdout
