"""The help pages: of the program, of a group of commands, and of one command."""

import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from arriero.cli.options import Option, Run, config_class, options_of

WIDEST = 100
"""Columns: longer lines are tiring to read."""

GENERAL = [
    ("--config FILE", "Settings from a TOML file; options on the line win."),
    ("--print-config", "Print the settings as TOML, ready for --config, and stop."),
    ("-h, --help", "Show this help."),
]


def print_command_help(program: str, run: Run) -> None:
    """The help of one command: its docstring, its words and its options."""
    options = options_of(config_class(run))
    words = [option for option in options if option.positional]
    usage = " ".join([program, *map(name_word, words), "[options]"])
    blocks = [f"Usage: {usage}", inspect.getdoc(run) or ""]
    if words:
        blocks.append(_rows("Arguments", ((option.positional or "", explain(option)) for option in words)))
    for group in dict.fromkeys(option.group for option in options):
        rows = [
            (name_flag(option), explain(option))
            for option in options
            if option.group == group and not option.positional
        ]
        blocks.append(_rows(f"{group} options".strip().capitalize(), rows))
    blocks.append(_rows("Everywhere", GENERAL))
    print("\n\n".join(block for block in blocks if block))


def commands_help(program: str, summary: str, commands: Mapping[str, str], tail: str = "") -> str:
    """The help of the program or of a group: its commands with a line each."""
    blocks = [f"Usage: {program} COMMAND [options]", summary, _rows("Commands", commands.items())]
    return "\n\n".join([*blocks, tail or f"`{program} COMMAND --help` tells more."])


def describe_type(option: Option) -> str:
    """What a value must be, in words: 'a whole number'."""
    if option.choices:
        return "one of " + ", ".join(map(str, option.choices))
    words = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path", str: "text"}
    if option.kind == "list":
        item = get_args(option.plain)[0]
        if get_origin(item) is Literal:
            return "some of " + ", ".join(get_args(item)) + ", with commas between them"
        return words.get(item, "text") + ", or several with commas between them"
    return words.get(option.plain, "text")


def name_word(option: Option) -> str:
    """An argument as the usage line has it: `PATH ...`, `[MODEL]`."""
    word = f"{option.positional}{' ...' if option.kind == 'list' else ''}"
    return word if option.default is dataclasses.MISSING else f"[{word}]"


def name_flag(option: Option) -> str:
    """An option with what follows it: `--top-k N`."""
    values: dict[Any, str] = {int: "N", float: "X", Path: "PATH"}
    if option.kind == "switch":
        return f"--no-{option.flag[2:]}" if option.default is True else option.flag
    if option.choices:
        return f"{option.flag} {'|'.join(map(str, option.choices))}"
    item = get_args(option.plain)[0] if option.kind == "list" else option.plain
    return f"{option.flag} {'KEY=VALUE' if option.kind == 'pairs' else values.get(item, 'TEXT')}"


def explain(option: Option) -> str:
    """The field's docstring, and its default where that says anything."""
    again = " Repeatable." if option.kind in ("list", "pairs") and not option.positional else ""
    silent = option.default in (dataclasses.MISSING, None, (), "") or isinstance(option.default, bool)
    default = ", ".join(map(repr, option.default)) if isinstance(option.default, tuple) else option.default
    return f"{option.help}{again}" + ("" if silent else f" [{default}]")


def _rows(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A titled table of two columns; a long left cell stands on its own line."""
    rows = list(rows)
    if not rows:
        return ""
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    column = min(max(len(left) for left, _ in rows) + 4, 30)
    lines = [f"{title}:"]
    for left, right in rows:
        wrapped = textwrap.wrap(right, max(20, width - column)) or [""]
        head = f"  {left}"
        if len(head) + 2 > column:
            lines.append(head)
            head = ""
        lines.append(f"{head:<{column}}{wrapped[0]}".rstrip())
        lines += [" " * column + line for line in wrapped[1:]]
    return "\n".join(lines)
