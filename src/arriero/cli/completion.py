"""`arriero completion`: what a shell needs to complete commands, options and values.

The scripts are made from the configs that the commands take. argparse-based generators such as shtab don't serve: words
here never pass through a parser (`parser.py`), and shtab knows no fish.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

from arriero.cli.commands import COMMANDS
from arriero.cli.help import GENERAL
from arriero.cli.options import Option, config_class, options_of, positional
from arriero.common.errors import ArrieroError, did_you_mean

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Offer:
    """What may stand in one place of a command line."""

    words: tuple[str, ...] = ()
    files: bool = False


@dataclass(frozen=True)
class Flag:
    """An option of a command."""

    name: str
    """With its hyphens."""
    help: str
    """One sentence."""
    value: Offer | None
    """What follows; None: nothing does."""
    repeatable: bool = False


@dataclass(frozen=True)
class Line:
    """What a command takes."""

    name: str
    flags: tuple[Flag, ...]
    words: tuple[tuple[str, Offer, bool], ...]
    """Of each argument: what the usage calls it, what to offer, and whether there may be several."""


@dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """Whose completion."""

    shell: str = positional("SHELL")
    """bash, zsh or fish."""


def completion(config: CompletionConfig) -> int:
    """Print a script that completes commands, options and their values in your shell.

    Write it where the shell looks; it is read by the next shell that starts. Do so again after an update.

    Examples:
      arriero completion bash > ~/.local/share/bash-completion/completions/arriero
      arriero completion zsh > ~/.zfunc/_arriero
      arriero completion fish > ~/.config/fish/completions/arriero.fish
    """
    from arriero.cli.completion_scripts import bash_script, fish_script, zsh_script

    if config.shell not in SHELLS:
        near = did_you_mean(config.shell, SHELLS)
        raise ArrieroError(f"unknown shell '{config.shell}'{near}: expected bash, zsh or fish")
    script = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}[config.shell]
    print(script([line_of(name) for name in COMMANDS]), end="")
    return 0


def line_of(name: str) -> Line:
    """What a command takes, by its config."""
    module, _, function = COMMANDS[name].target.partition(":")
    options = options_of(config_class(getattr(importlib.import_module(module), function)))
    flags = [_flag(option) for option in options if not option.positional]
    words = [(option.positional, _offer(option), option.kind == "list") for option in options if option.positional]
    return Line(name, (*flags, *_general()), tuple(words))


def _general() -> list[Flag]:
    """The options that every command has."""
    from arriero.cli.parser import shipped_configs

    settings = Offer(tuple(path.stem for path in shipped_configs()), files=True)
    rows = [(names.split(", ")[-1].partition(" "), text) for names, text in GENERAL]
    return [Flag(flag, _sentence(text), settings if value else None) for (flag, _, value), text in rows]


def _flag(option: Option) -> Flag:
    if option.kind == "switch":
        name = f"--no-{option.flag[2:]}" if option.default is True else option.flag
        return Flag(name, _sentence(option.help), None)
    return Flag(option.flag, _sentence(option.help), _offer(option), option.kind in ("list", "pairs"))


def _offer(option: Option) -> Offer:
    item = get_args(option.plain)[0] if option.kind == "list" else option.plain
    if get_origin(item) is Literal:
        return Offer(tuple(map(str, get_args(item))))
    if option.key.rpartition(".")[2] in ("model", "models", "names"):
        from arriero.model.presets import PRESETS
        from arriero.model.source import NAMED

        return Offer((*NAMED, *PRESETS), files=True)
    if option.positional == "SHELL":
        return Offer(SHELLS)
    return Offer(files=item is Path or "PATH" in (option.positional or ""))


def _sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".:")
