"""Every command in the README runs, in order, as a newcomer would type it."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_quickstart import EXPECTED

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
SCREENS = [[line.partition("  #")[0].strip() for line in block.splitlines() if line] for block in BLOCKS]
COMMANDS = [command for screen in SCREENS for command in screen]
ELSEWHERE = ("make ", "pip install", "git clone")
"""Commands that build an environment: `make` targets are checked below, the rest is what CI itself does."""


def test_the_readme_has_commands():
    assert any(command.startswith("arriero quickstart") for command in COMMANDS)
    assert any(command.startswith("make quickstart") for command in COMMANDS)


def test_every_make_target_of_the_readme_exists():
    targets = [target for command in COMMANDS if command.startswith("make ") for target in command.split()[1:]]
    listed = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """Where the commands run, one screen after the other."""
    room = tmp_path_factory.mktemp("readme")
    (room / "docs").mkdir()
    shutil.copy(ROOT / "CONTRIBUTING.md", room / "docs")  # "your own folder", as the README calls it
    asked = [{"role": "user", "content": f"What is {n} and {n}?"} for n in range(12)]
    answers = [{"role": "assistant", "content": f"{n} and {n} is {2 * n}."} for n in range(12)]
    rows = [json.dumps({"messages": list(pair)}) for pair in zip(asked, answers, strict=True)]
    (room / "examples.jsonl").write_text("\n".join(rows))
    return room


@pytest.mark.weights
@pytest.mark.timeout(900)
@pytest.mark.parametrize("screen", SCREENS, ids=[screen[0] for screen in SCREENS])
def test_every_arriero_command_of_the_readme_runs(room, smollm2_gguf, minilm_folder, screen):
    assert smollm2_gguf.exists()
    assert minilm_folder.exists()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    how = {"cwd": room, "env": environment, "text": True}
    for command in screen:
        if command.startswith("arriero serve"):
            serve(command, how)
            continue
        if command.startswith(ELSEWHERE):
            continue
        typed = f"{command} --until answer" if command == "arriero quickstart" else command  # the road has its own test
        result = subprocess.run(typed, shell=True, capture_output=True, stdin=subprocess.DEVNULL, **how)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        if command == "arriero quickstart":
            assert all(phrase in result.stdout for phrase in EXPECTED)
            assert result.stdout.count("[1] python/topics/") == len(EXPECTED)
            assert "arriero rag add PATH" in result.stdout


def serve(command: str, how: dict[str, Any]) -> None:
    """The server listens, on a free port, and ends with Ctrl-C."""
    words = [*shlex.split(command), "--port", "0", "--no-open"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, **how) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("http://"), command
        server.send_signal(signal.SIGINT)
        assert server.wait(100) == 0
