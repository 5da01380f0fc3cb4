"""`arriero completion`, asked by the shells themselves."""

import shutil
import subprocess

import pytest

from arriero.cli.commands import COMMANDS, GROUPS

ASKED = {
    "ra": {"rag"},
    "rag a": {"add", "ask"},
    "generate --dty": {"--dtype"},
    "generate --dtype ": {"auto", "float32", "bfloat16", "float16"},
    "generate --dtype=fl": {"float32", "float16"},
    "pretrain runs/new --model tin": {"tiny-6m", "tiny-15m"},
    "pretrain --config llama2-p": {"llama2-ppo"},
    "completion z": {"zsh"},
    "rag add my": {"my notes"},
    "generate --top-k ": set(),
    "nothing --json ": set(),
}
"""What is typed before the tab, and what comes."""

_BASH = r"""
line="arriero $1"
read -ra COMP_WORDS <<<"${line//=/ = }"
[[ $line == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
complete -p arriero | grep -q "F _arriero" && _arriero 2>/dev/null
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    from arriero.cli.completion import line_of
    from arriero.cli.completion_scripts import bash_script, fish_script, zsh_script

    folder = tmp_path_factory.mktemp("completion")
    lines = [line_of(name) for name in COMMANDS]
    for shell, script in {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}.items():
        (folder / shell).write_text(script(lines), encoding="utf-8")
    return folder


def run_shell(scripts, shell, *argv):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run([shell, *argv], cwd=scripts, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {line.partition("\t")[0] for line in done.stdout.splitlines() if line}


@pytest.mark.parametrize("typed", ASKED)
def test_bash_completes(scripts, typed):
    (scripts / "my notes").touch()
    assert run_shell(scripts, "bash", "--norc", "-c", f"source ./bash\n{_BASH}", "-", typed) == ASKED[typed]


@pytest.mark.parametrize("typed", [typed for typed in ASKED if "=" not in typed and "my" not in typed])
def test_fish_completes(scripts, typed):
    asked = f"source ./fish; complete -C 'arriero {typed}'"
    assert run_shell(scripts, "fish", "--no-config", "-c", asked) == ASKED[typed]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_takes_its_script(scripts, shell):
    assert run_shell(scripts, shell, "-n", shell) == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_in_it(scripts, shell):
    script = (scripts / shell).read_text(encoding="utf-8")
    assert all(name in script for name in [*COMMANDS, *GROUPS])


def test_the_command_prints_what_was_tested(run, scripts):
    assert run("completion", "fish").out == (scripts / "fish").read_text(encoding="utf-8")


def test_an_unknown_shell_is_one_line(run):
    assert run("completion", "fisch") == (
        2,
        "",
        "arriero: error: unknown shell 'fisch' (did you mean fish?): expected bash, zsh or fish\n",
    )
