"""The loop of a talk in the terminal: lines in, answers out, `/commands`, Ctrl-C and Ctrl-D; the same over a pipe.

Ctrl-C during an answer stops the answer. At the prompt it drops the line that is being typed; a second one in a row, or
Ctrl-D, or /exit, leaves.
"""

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from arriero.cli.interrupt import stoppable
from arriero.cli.output import check_text, note, warn
from arriero.common.errors import ArrieroError, did_you_mean

PROMPT = "> "

Reply = Callable[[str, threading.Event], None]
"""Answers one message; ends early when the event is set."""

Commands = Mapping[str, tuple[str, Callable[[str], None]]]
"""`/name` → (its line in the help, what it does with the words after it)."""


@dataclass(frozen=True)
class Talk:
    """What is said to, and what can be done in, a conversation."""

    reply: Reply
    greeting: str
    commands: Commands = field(default_factory=dict)

    def run(self) -> None:
        """Talk until the input ends or the person leaves."""
        interactive = sys.stdin.isatty()
        if interactive:
            import readline  # noqa: F401 - line editing and history in input()

            note(f"{self.greeting} /help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.")
        interrupted = False
        while True:
            try:
                line = _read_line(interactive)
            except KeyboardInterrupt:
                note("" if interrupted else "(Ctrl-C again, Ctrl-D or /exit leaves)")
                if interrupted or not interactive:
                    return
                interrupted = True
                continue
            interrupted = False
            if line is None or line.split() in (["/exit"], ["/quit"]):
                return
            if line.strip():
                self._answer(line)

    def _answer(self, line: str) -> None:
        """One line; a mistake in it is told and the talk goes on."""
        try:
            if line.startswith("/"):
                self._command(line)
                return
            check_text(line)
            stop = threading.Event()
            with stoppable(stop):
                self.reply(line, stop)
            if stop.is_set():
                note("(stopped)")
        except ArrieroError as error:
            warn(" ".join(str(error).split()))
        except KeyboardInterrupt:
            note("(stopped)")

    def _command(self, line: str) -> None:
        name, _, rest = line.strip().partition(" ")
        if name == "/help":
            for command, (summary, _) in self.commands.items():
                note(f"{command:<10} {summary}")
            note(f"{'/exit':<10} leave")
        elif name in self.commands:
            self.commands[name][1](rest.strip())
        else:
            near = did_you_mean(name, [*self.commands, "/help", "/exit"])
            raise ArrieroError(f"unknown command {name}{near}; /help lists them")


def _read_line(interactive: bool) -> str | None:
    """The next line as typed, without its end; None at the end of the input."""
    if interactive:
        try:
            return input(PROMPT)
        except EOFError:
            print(file=sys.stderr)
            return None
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise ArrieroError("standard input is no valid UTF-8: convert it, e.g. with iconv") from error
    return line.removesuffix("\n").removesuffix("\r") if line else None
