"""What commands print: answers and JSON on the output stream, messages on the error stream.

Colours are off where a stream is no terminal, or `NO_COLOR` is set (rich sees to both).
"""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from arriero.common.errors import ArrieroError

UNWRAPPED = 100_000
"""Columns of a stream that is no terminal."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def console(*, error: bool = False) -> Console:
    """A console on the output stream, or on the error stream; nothing is wrapped when it goes into a pipe."""
    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else UNWRAPPED)


def print_json(value: Any) -> None:
    """One JSON value, on one line, so that `jq` and line readers both take it."""
    print(json.dumps(value, ensure_ascii=False, default=_plain))


def note(message: str) -> None:
    """A message for the person at the terminal, on the error stream."""
    console(error=True).print(escape(printable(message)), style="dim")


def warn(message: str) -> None:
    """A message that must not be overlooked, on the error stream."""
    console(error=True).print(f"[yellow]{escape(printable(message))}[/]")


def printable(text: str) -> str:
    """Text of a model or a document without control characters, which could steer a terminal."""
    return _CONTROL.sub("�", text)


def read_text(given: str | None) -> str:
    """A text from the command line; None or `-` means standard input.

    Raises:
        ArrieroError: it is empty, is no UTF-8, or nothing is piped in.
    """
    if given in (None, "-"):
        if sys.stdin is None or sys.stdin.isatty():
            raise ArrieroError("no text given: write it in quotes after the command, or pipe it in")
        given = _read_stdin()
    assert given is not None
    check_text(given)
    return given


def check_text(text: str) -> None:
    """Raises ArrieroError when a text is empty, or came from bytes that are no UTF-8."""
    if not text.strip():
        raise ArrieroError("the text is empty: expected at least one word")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArrieroError("the text is no valid UTF-8: set your terminal to UTF-8, or convert the text") from error


def _read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ArrieroError("standard input is no valid UTF-8: convert it, e.g. with iconv") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
