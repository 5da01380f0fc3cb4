"""The `arriero` program: find the command, parse its line, call its one function, and end with the right exit code.

Exit codes: 0 done; 1 done in part (some files could not be read); 2 a mistake in the input, told in one line on the
error stream; 130 interrupted. Anything else is a defect of ours and keeps its traceback.
"""

import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence

from arriero import __version__
from arriero.cli.commands import COMMANDS, GROUPS
from arriero.cli.help import commands_help
from arriero.common.errors import ArrieroError, did_you_mean

SUMMARY = "Raise a LLaMA on your own text, and keep it honest about your own documents."
TAIL = "`arriero COMMAND --help` tells more; `arriero quickstart` shows it at work."

USAGE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character must not end the program
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except ArrieroError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # the reader of our output went away (`| head`): nobody is left to tell, and the flush at exit must not try
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        return _fail(f"{error.filename or 'writing'}: {error.strerror}")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    return code


def _fail(message: str) -> int:
    from arriero.cli.output import printable  # lazily: it imports rich, which --help does without

    print(f"arriero: error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return USAGE


def _run(argv: list[str]) -> int:
    if argv[:1] in (["--version"], ["-V"]):
        print(f"arriero {__version__}")
        return 0
    group = argv[0] if argv and argv[0] in GROUPS else ""
    words = argv[:2] if group else argv[:1]
    name = " ".join(words)
    if name in COMMANDS:
        return call(name, argv[len(words) :])
    asked = words[-1:] in (["-h"], ["--help"], ["help"])
    if asked or name == group:
        print(_help(group))
        return 0 if asked else USAGE
    kind = "option" if words[-1].startswith("-") else "command"
    near = did_you_mean(name, [*COMMANDS, *GROUPS, "--help", "--version"])
    raise ArrieroError(f"unknown {kind} '{words[-1]}'{near}; `{f'arriero {group}'.strip()} --help` lists them")


def _help(group: str) -> str:
    if group:
        inside = {name.split()[1]: c.summary for name, c in COMMANDS.items() if name.startswith(f"{group} ")}
        return commands_help(f"arriero {group}", f"{GROUPS[group]}.", inside)
    return commands_help("arriero", SUMMARY, {name: command.summary for name, command in COMMANDS.items()}, TAIL)


def call(name: str, argv: list[str]) -> int:
    from arriero.cli.parser import parse

    if "OMP_WAIT_POLICY" not in os.environ:
        # PyTorch's threads wait for each other spinning, by default for milliseconds. Beside other work each spins away
        # the time that the awaited one needs. It is read when torch is imported.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")

    module, _, function = COMMANDS[name].target.partition(":")
    run = getattr(importlib.import_module(module), function)
    return run(parse(f"arriero {name}", run, argv)) or 0
