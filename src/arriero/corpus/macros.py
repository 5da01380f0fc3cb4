r"""An author's own macros, written out where they are used (LLaMA, section 2.1: "inline-expanded").

`\newcommand` and its relatives, `\def` with plain parameters and `\DeclareMathOperator` are read, and go. As TeX has
it, what a macro leaves is read again, its arguments too, and a macro at its end takes arguments from the text behind.
A use stays if the macro is a program (it asks, defines or looks ahead), if it lacks arguments, and if it would grow
beyond measure.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST_WORK, PER_ARGUMENT = 20_000, 20
"""Characters that one use may write, those of macros in macros counted each time, and more for each of its arguments'.
"""
PER_TEXT = 10
"""Characters for each one of a text that all its uses together may write."""
LONGEST_OPTION = 1_000
"""Characters of an optional argument."""
_STEP = 10
"""What a macro costs that writes nothing."""
_PROGRAM = re.compile(
    r"\\(?:expandafter|csname|futurelet|if[a-zA-Z@]*|else|fi|[egx]?def|let|(?:re)?newcommand|providecommand|global"
    r"|protected|relax|the|number|begingroup|endgroup|@[a-zA-Z@]+)(?![a-zA-Z])"
)
"""What cannot be written out without running TeX."""
_DEFINE = re.compile(
    r"(?<!\\)\\(?:"
    r"(?P<new>(?:re)?newcommand|(?P<provide>providecommand)|DeclareRobustCommand)\*?\s*"
    r"(?:\{\s*\\(?P<a>[a-zA-Z@]+)\s*\}|\\(?P<b>[a-zA-Z@]+))"
    r"|(?P<def>[egx]?def|long\s*\\def)\s*\\(?P<c>[a-zA-Z@]+)(?P<parameters>(?:\s*#[1-9])*)\s*(?=\{)"
    r"|DeclareMathOperator(?P<star>\*?)\s*(?:\{\s*\\(?P<d>[a-zA-Z@]+)\s*\}|\\(?P<e>[a-zA-Z@]+))"
    r")"
)
_BRACE = re.compile(r"\\[\\{}]|[{}]")
_COUNT = re.compile(r"\s*\[\s*([0-9])\s*\]")
_COMMAND = re.compile(r"\\(?:([a-zA-Z@]+)|.)", re.DOTALL)
_PARAMETER = re.compile(r"#([1-9])")
_BLANKS = re.compile(r"[ \t]*+\n?[ \t]*+")
_NO_ARGUMENT = frozenset("{}$&\n")
"""What is no argument by itself: half a group, an empty line, or the end of the formula or cell around it."""
_LETTERS = string.ascii_letters
_LONGEST_COMMAND = 80
_NEVER_NAMES = (
    "begin end item input include part chapter section subsection subsubsection paragraph subparagraph appendix "
    "bibliography label ref cite caption footnote newcommand def verb"
)
_NEVER = frozenset(_NEVER_NAMES.split())
"""What has a meaning of its own, however an author changes its looks."""
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Macro:
    """What stands for a command."""

    arguments: int
    default: str | None
    """Of the first argument, if that may be left out."""
    body: str


def take_definitions(text: str, verbatim: Spans = ()) -> tuple[str, dict[str, Macro]]:
    """The text without definitions, and the macros; the last definition of a name counts.

    Args:
        verbatim: spans of the text, in order, in which nothing is a definition.
    """
    macros: dict[str, Macro] = {}
    source = _Source(text)
    kept, start = [], 0
    spans = iter([*verbatim, (len(text), len(text) + 1)])
    begin, end = next(spans)
    while found := _DEFINE.search(text, source.at):
        source.at = found.end()
        while end <= found.start():
            begin, end = next(spans)
        if begin <= found.start() or (read := _read_definition(source, found)) is None:
            continue
        name, macro = read
        kept.append(text[start : found.start()])
        start = source.at
        if name in _NEVER or _PROGRAM.search(macro.body):
            macros.pop(name, None)
        elif not (found["provide"] and name in macros):
            macros[name] = macro
    return "".join(kept) + text[start:], macros


def expand(text: str, macros: Mapping[str, Macro], verbatim: Spans = ()) -> tuple[str, int]:
    """The text with every macro written out, and how many uses were left as they were.

    Args:
        verbatim: spans of the text, in order, that stay as they are.
    """
    if not macros:
        return text, 0
    writer = _Writer(macros, MOST_WORK + PER_TEXT * len(text))
    at = 0
    for start, end in [*verbatim, (len(text), len(text))]:
        writer.read(text[at:start])
        writer.put(text[start:end])
        at = end
    return "".join(writer.out), writer.left


class _Source:
    """A text that is read from left to right."""

    __slots__ = ("_pairs", "at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._pairs: dict[int, int] | None = None

    def skip_blanks(self) -> bool:
        """Go on to what is no blank, at most one line down; False at the end."""
        found = _BLANKS.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.at < len(self.text)

    def group(self) -> str | None:
        """What the braces hold that open here; None if none do, or they are never closed."""
        if not self.text.startswith("{", self.at):
            return None
        if self._pairs is None:
            self._pairs = _pairs(self.text)
        if (end := self._pairs.get(self.at)) is None:
            return None
        start, self.at = self.at + 1, end + 1
        return self.text[start:end]

    def option(self) -> str | None:
        """What the square brackets hold that open here: it is short, and holds no others."""
        if not self.text.startswith("[", self.at):
            return None
        if (end := self.text.find("]", self.at, self.at + LONGEST_OPTION)) < 0:
            return None
        start, self.at = self.at + 1, end + 1
        return self.text[start:end]


def _pairs(text: str) -> dict[int, int]:
    """Where each brace that opens is closed; those that never are have no entry. One pass, however they nest."""
    pairs: dict[int, int] = {}
    open_at: list[int] = []
    for found in _BRACE.finditer(text):
        if found[0] == "{":
            open_at.append(found.start())
        elif found[0] == "}" and open_at:
            pairs[open_at.pop()] = found.start()
    return pairs


def _read_definition(source: _Source, found: re.Match[str]) -> tuple[str, Macro] | None:
    """Name and macro, the source then being behind the definition; None if it is not whole."""
    arguments, default = 0, None
    if found["new"] and (count := _COUNT.match(source.text, source.at)):
        arguments, source.at = int(count[1]), count.end()
        source.skip_blanks()
        default = source.option() if arguments else None
    elif found["def"]:
        arguments = found["parameters"].count("#")
    source.skip_blanks()
    body = source.group()
    if body is None:
        return None
    if found["star"] is not None:
        body = rf"\operatorname{found['star']}{{{body}}}"
    name = next(name for name in found.group("a", "b", "c", "d", "e") if name)
    return name, Macro(arguments, default, body)


class _Left(Exception):
    """A use that is left as it is."""


class _Writer:
    """Puts out texts with their macros written out. Its work is linear in the text, whatever the macros do."""

    def __init__(self, macros: Mapping[str, Macro], work: int) -> None:
        self.out: list[str] = []
        self.left = 0
        self._macros = macros
        self._work = work
        self._endless: set[str] = set()
        """Macros that went beyond measure once: no other use is tried."""

    def put(self, text: str) -> None:
        """Put a text out as it is, but that a command before it does not run into its first word."""
        if text:
            if text[0] in _LETTERS and self.out and _ends_in_command(self.out[-1]):
                self.out.append(" ")
            self.out.append(text)

    def read(self, text: str) -> None:
        """Put a text out, its macros written out."""
        source = _Source(text)
        while use := self._next_use(source):
            size = len(self.out)
            try:
                self._write_out(use[1], source)
            except _Left:
                del self.out[size:]
                self.left += 1
                source.at = use.end()
                self.put(use[0])

    def _next_use(self, source: _Source) -> re.Match[str] | None:
        """The next macro of a text; what stands before it is put out."""
        start = source.at
        for found in _COMMAND.finditer(source.text, start):
            if found[1] in self._macros:
                self.put(source.text[start : found.start()])
                source.at = found.end()
                return found
        self.put(source.text[start:])
        source.at = len(source.text)
        return None

    def _write_out(self, name: str, text: _Source) -> None:
        """Put out what stands for one use in a text: macros in macros are read from a stack, the text at its bottom."""
        first, start, work = name, text.at, 0
        sources = [text]
        while first not in self._endless and self._work > 0:
            arguments = _read_arguments(self._macros[name], sources)
            body = _fill_in(self._macros[name].body, arguments)
            cost = _STEP + len(body) + sum(map(len, arguments))
            work += cost
            self._work -= cost
            if work > MOST_WORK + PER_ARGUMENT * (text.at - start):
                self._endless.add(first)
                break
            sources.append(_Source(body))
            while len(sources) > 1:
                if use := self._next_use(sources[-1]):
                    name = use[1]
                    break
                sources.pop()
            else:
                return
        raise _Left


def _read_arguments(macro: Macro, sources: list[_Source]) -> list[str]:
    """A use's arguments, groups or single signs, from the source on top, or from those below where it ends.

    Raises:
        _Left: there are not so many.
    """
    arguments: list[str] = []
    if macro.default is not None:
        while len(sources) > 1 and sources[-1].at == len(sources[-1].text):
            sources.pop()
        option = sources[-1].option()
        arguments.append(macro.default if option is None else option)
    while len(arguments) < macro.arguments:
        if not _skip_blanks(sources):
            raise _Left
        arguments.append(_read_argument(sources[-1]))
    if not macro.arguments and sources[-1].text.startswith("{}", sources[-1].at):
        sources[-1].at += 2
    return arguments


def _skip_blanks(sources: list[_Source]) -> bool:
    """Go on to what is no blank; False at the end of all sources."""
    while not sources[-1].skip_blanks():
        if len(sources) == 1:
            return False
        sources.pop()
    return True


def _read_argument(source: _Source) -> str:
    if (group := source.group()) is not None:
        return group
    if source.text[source.at] in _NO_ARGUMENT:
        raise _Left
    command = _COMMAND.match(source.text, source.at)
    start, source.at = source.at, command.end() if command else source.at + 1
    return source.text[start : source.at]


def _fill_in(body: str, arguments: Sequence[str]) -> str:
    """A macro's body with its arguments in the places of their signs."""
    if not arguments:
        return body
    pieces: list[str] = []
    for place, piece in enumerate(_PARAMETER.split(body)):
        filled = piece if place % 2 == 0 else _argument(int(piece), arguments)
        if filled:
            if filled[0] in _LETTERS and pieces and _ends_in_command(pieces[-1]):
                pieces.append(" ")
            pieces.append(filled)
    return "".join(pieces)


def _argument(number: int, arguments: Sequence[str]) -> str:
    return arguments[number - 1] if number <= len(arguments) else f"#{number}"


def _ends_in_command(text: str) -> bool:
    r"""Whether its last word is a command's name: behind `\\` a word is none."""
    end = text[-_LONGEST_COMMAND:]
    before = end.rstrip(_LETTERS)
    return len(before) < len(end) and (len(before) - len(before.rstrip("\\"))) % 2 == 1
