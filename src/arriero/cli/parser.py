"""From a command line to a config object, on jsonargparse: types, TOML files, dotted overrides, `--print-config`.

Options and words may come in any order, which argparse does not allow. So the line is first brought to one form,
`--key=value` for each option, and the words that are no option are kept apart; there too, a misspelt option meets its
nearest neighbour. Words (a question, file names) never pass through the parser: they stay as typed, even `null`.
"""

import argparse
import dataclasses
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from arriero.cli.help import describe_type, print_command_help
from arriero.cli.options import Option, Run, build, config_class, options_of
from arriero.common.errors import ArrieroError, did_you_mean

OWN = ("--help", "--config", "--print-config")
"""Options that every command has beside its config's."""


class UsageError(ArrieroError):
    """The command line is not one that the command accepts."""


def parse(program: str, run: Run, argv: Sequence[str]) -> Any:
    """The config object that a command line gives; `--help` and `--print-config` print and exit.

    Raises:
        UsageError: an unknown option, a missing or ill-typed value.
    """
    config = config_class(run)
    options = options_of(config)
    flags, words = _canonical(options, argv, program)
    if "--help" in flags:
        print_command_help(program, run)
        raise SystemExit(0)
    typed = [option for option in options if not option.positional]
    try:
        space = _parser(program, typed).parse_args(flags)
    except argparse.ArgumentError as error:
        raise UsageError(_explain(str(error), typed)) from error
    values = {option.key: space[option.key] for option in typed}
    for option in typed:
        if option.default is dataclasses.MISSING and values[option.key] is None:
            what = option.help.partition(".")[0]
            raise UsageError(f"`{program}` needs {option.flag}: {what}; see `{program} --help`")
    return build(config, values | _assign(options, words, program))


def _parser(program: str, options: Sequence[Option]) -> Any:
    import jsonargparse

    parser = jsonargparse.ArgumentParser(
        prog=program, parser_mode="toml", print_config="--print-%s", exit_on_error=False, add_help=False
    )
    parser.add_argument("--config", action="config")
    for option in options:
        default = None if option.default is dataclasses.MISSING else option.default
        kind = {Path: str, Path | None: str | None, tuple[Path, ...]: tuple[str, ...]}.get(option.type, option.type)
        parser.add_argument(
            f"--{option.key}", type=kind, default=str(default) if isinstance(default, Path) else default
        )
    return parser


def _canonical(options: Sequence[Option], argv: Sequence[str], program: str) -> tuple[list[str], list[str]]:
    """Bring a command line to `--key=value` for each option, and the other words."""
    named = {option.flag: option for option in options if not option.positional}
    named |= {"--" + option.key.replace("_", "-"): option for option in options if not option.positional}
    flags: list[str] = []
    words: list[str] = []
    repeated: dict[str, tuple[Option, list[str]]] = {}
    rest = iter(argv)
    for token in rest:
        if token == "--":  # noqa: S105 - not a password
            words += rest
            break
        if not token.startswith("-") or token == "-":  # noqa: S105
            words.append(token)
            continue
        name, equals, value = token.partition("=")
        name = "--help" if name == "-h" else name.replace("_", "-")
        option = named.get(name)
        if option is None and (switch := named.get(name.replace("--no-", "--", 1))) and switch.kind == "switch":
            flags.append(f"--{switch.key}=false")
        elif name in ("--help", "--print-config"):
            flags.append(name + equals + value)
        elif option is None and name != "--config":
            near = did_you_mean(name, [*named, *OWN])
            raise UsageError(f"unknown option {name}{near}; `{program} --help` lists them")
        elif option and option.kind == "switch":
            flags.append(f"--{option.key}={value or 'true'}")
        else:
            given = value if equals else next(rest, None)
            if given is None:
                raise UsageError(f"option {name} needs a value")
            if option is None:
                flags.append(f"--config={_existing(given)}")
            elif option.kind == "value":
                flags.append(f"--{option.key}={given}")
            else:
                repeated.setdefault(option.key, (option, []))[1].append(given)
    return flags + [f"--{key}={_gather(*given)}" for key, given in repeated.items()], words


def _gather(option: Option, given: Sequence[str]) -> str:
    """A repeated option's values as one JSON value."""
    if option.kind == "list":
        numbers = get_args(option.plain)[0] in (int, float)
        return f"[{','.join(given)}]" if numbers else json.dumps(list(given))
    for pair in given:
        if not pair.partition("=")[1]:
            raise UsageError(f"option {option.flag} expects KEY=VALUE, got '{pair}'")
    return json.dumps(dict(pair.split("=", 1) for pair in given))


def _existing(path: str) -> str:
    """A configuration file, or the one of ours that goes by a name."""
    if not Path(path).is_file():
        shipped = {file.stem: str(file) for file in shipped_configs()}
        if path not in shipped:
            near = did_you_mean(path, shipped)
            raise UsageError(f"option --config: no such file: {path}{near}; ours are {', '.join(sorted(shipped))}")
        path = shipped[path]
    try:
        tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"option --config: {path} is no TOML: {error}") from error
    return path


def shipped_configs() -> list[Path]:
    """The configurations that come with the package; in a source tree they lie at its root."""
    package = Path(__file__).parents[1]
    folder = package / "configs" if (package / "configs").is_dir() else package.parents[1] / "configs"
    return sorted(folder.glob("*.toml"))


def _assign(options: Sequence[Option], words: Sequence[str], program: str) -> dict[str, Any]:
    """Give the words to the positional fields, in order; a last field that is a tuple takes all that are left."""
    left, values = list(words), dict[str, Any]()
    for option in (option for option in options if option.positional):
        if not left:
            if option.default is dataclasses.MISSING:
                raise UsageError(f"`{program}` needs {option.positional}; see `{program} --help`")
        elif option.kind == "list":
            values[option.key], left = tuple(left), []
        else:
            values[option.key] = left.pop(0)
    if left:
        raise UsageError(f"unexpected argument '{left[0]}': text of several words goes in quotes")
    return values


def _explain(message: str, options: Sequence[Option]) -> str:
    """jsonargparse's message as one line that names the option as it was typed."""
    if match := re.match(r"Option '([^']+)' is not accepted", message):
        near = did_you_mean(match[1], [option.key for option in options])
        return f"unknown setting '{match[1]}' in the configuration{near}"
    if match := re.match(r'Parser key "([^"]+)"', message):
        option = next((option for option in options if option.key == match[1]), None)
        got = re.search(r"(?:Got value|Given value): (.*)", message)
        if option and got:
            near = did_you_mean(got[1], map(str, option.choices))
            return f"option {option.flag} expects {describe_type(option)}, got '{got[1]}'{near}"
    return " ".join(message.split())
