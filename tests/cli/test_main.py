"""The program: finding commands, help, exit codes and one-line errors."""

import os
import re
import subprocess
import sys
from importlib import import_module

import pytest

from arriero import __version__
from arriero.cli import main as program
from arriero.cli.commands import COMMANDS, GROUPS
from arriero.cli.options import config_class, options_of

PYTHON = [sys.executable, "-m", "arriero"]


def test_root_help_names_every_command_and_imports_neither_torch_nor_jsonargparse():
    code = (
        "import sys; from arriero.cli.main import main; main(['--help']);"
        "heavy = {'torch', 'jsonargparse', 'rich', 'numpy', 'transformers'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_no_command_imports_torch_or_numpy_to_print_its_help_and_settings_or_to_refuse_an_option():
    code = """
import sys
from arriero.cli.commands import COMMANDS
from arriero.cli.main import main

for name in COMMANDS:
    for option in ("--help", "--print-config", "--no-such-option"):
        try:
            main([*name.split(), option])
        except SystemExit:
            pass
    if heavy := {"torch", "transformers", "faiss", "numpy"} & set(sys.modules):
        sys.exit(f"{name} imported {heavy}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


def test_root_help_is_quick():
    assert min(_cpu_seconds() for _ in range(3)) < 0.5


def _cpu_seconds() -> float:
    before = os.times()
    subprocess.run([*PYTHON, "--help"], capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_version(run):
    assert run("--version") == (0, f"arriero {__version__}\n", "")


@pytest.mark.parametrize("argv", [(), ("rag",), ("model",)])
def test_a_command_is_needed(run, argv):
    code, out, _ = run(*argv)
    assert code == 2
    assert "Commands:" in out


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group(run, group):
    code, out, _ = run(group, "--help")
    assert code == 0
    assert all(name.split()[1] in out for name in COMMANDS if name.startswith(f"{group} "))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_that_explains_each_option(run, name):
    code, out, _ = run(*name.split(), "--help")
    assert code == 0
    assert f"Usage: arriero {name}" in out
    module, _, function = COMMANDS[name].target.partition(":")
    for option in options_of(config_class(getattr(import_module(module), function))):
        assert option.help, f"{option.key} has no docstring"
        assert option.positional or option.flag.removeprefix("--") in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("genrate",), "unknown command 'genrate' (did you mean generate?)"),
        (("rag", "aks"), "unknown command 'aks' (did you mean rag ask?)"),
        (("--hlp",), "unknown option '--hlp' (did you mean --help?)"),
        (("generate", "--temprature", "1"), "unknown option --temprature (did you mean --temperature?)"),
        (("generate", "--top-k", "many"), "option --top-k expects a whole number, got 'many'"),
        (("generate", "--top-k"), "option --top-k needs a value"),
        (("generate", "--top-p", "3", "hi"), "top_p must be above 0 and at most 1"),
        (("generate", "--dtype", "float23", "hi"), "got 'float23' (did you mean float32?)"),
        (("generate", "two", "words"), "unexpected argument 'words'"),
        (("generate", "--config", "missing.toml", "hi"), "no such file: missing.toml"),
        (("rag", "add"), "needs PATH"),
        (("rag", "ask", "why?", "--filter", "author"), "expects KEY=VALUE, got 'author'"),
        (("model", "show", "smolm2-135m-instruct"), "(did you mean smollm2-135m-instruct?)"),
    ],
)
def test_mistakes_are_told_in_one_line(run, argv, message):
    code, out, err = run(*argv)
    assert code == 2
    assert out == ""
    assert err.startswith("arriero: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_an_interrupt_ends_with_130(run, monkeypatch):
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "_run", interrupt)
    assert run("generate").code == 130


def test_a_file_that_cannot_be_opened_is_one_line(run, monkeypatch):
    def refuse(argv: list[str]) -> int:
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr(program, "_run", refuse)
    assert run("generate")[::2] == (2, "arriero: error: /secret: Permission denied\n")


def test_our_own_defects_keep_their_traceback(run, monkeypatch):
    def fail(argv: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(program, "_run", fail)
    with pytest.raises(ZeroDivisionError):
        run("generate")


def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*PYTHON, "--help"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 141


def test_help_fits_a_narrow_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    options = run("generate", "--help").out.split("Options:")[1]
    assert max(map(len, options.splitlines())) <= 60


def test_no_command_line_prints_colours_into_a_pipe(run):
    assert not re.search("\x1b", "".join(map(str, run("model", "show", "tiny-15m"))))


def test_waiting_threads_do_not_spin_unless_the_user_says_so(monkeypatch, capsys):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    with pytest.raises(SystemExit):
        program.main(["generate", "--help"])
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    with pytest.raises(SystemExit):
        program.main(["generate", "--help"])
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
