"""The manual page: it says what the commands say, and `man` takes it without a warning."""

import os
import re
import shutil
import subprocess

import pytest

from arriero.cli.commands import COMMANDS
from tools.write_man import PAGE, man_page


def test_the_page_is_what_the_commands_say():
    assert PAGE.read_text(encoding="utf-8") == man_page(), "run `make man`"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_man_shows_it(locale):
    if shutil.which("man") is None:
        pytest.skip("no man here")
    environment = {"PATH": os.environ["PATH"], "LC_ALL": locale, "MANWIDTH": "100"}
    done = subprocess.run(
        ["man", "--warnings", "-l", PAGE], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == ""
    shown = re.sub(r"\s+", " ", done.stdout)
    assert all(f"arriero {name} " in shown for name in COMMANDS)
    assert "arriero rag ask [QUESTION] [options]" in shown
    assert "--temperature X" in shown
    assert "arriero model get smollm2-135m-instruct all-minilm-l6-v2" in shown
