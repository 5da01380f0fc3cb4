"""An author's own macros, written out where they are used (LLaMA, section 2.1: "inline-expanded").

`\\newcommand` and its relatives, `\\def` with plain parameters and `\\DeclareMathOperator` are read, and go. A macro
stays if it is a program (it asks, defines or looks ahead), within its own expansion, and where it would grow beyond
measure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

MOST_GROWTH = 2_000
"""Characters that one use of a macro may grow to beyond its arguments."""
_PROGRAM = re.compile(
    r"\\(?:expandafter|csname|futurelet|@ifnextchar|@ifstar|if|else|fi|[egx]?def|let|newcommand|renewcommand|global"
    r"|protected|relax|the|number|ifthenelse|begingroup|endgroup|gdef|@[a-zA-Z@]+)(?![a-zA-Z])|\\if[a-z]+"
)
"""What cannot be written out without running TeX."""
_DEFINE = re.compile(
    r"\\(?:(?P<new>(?:re)?newcommand|providecommand|DeclareRobustCommand)\*?\s*(?:\{\s*\\(?P<a>[a-zA-Z@]+)\s*\}|\\(?P<b>[a-zA-Z@]+))"
    r"|(?P<def>[egx]?def|long\s*\\def)\s*\\(?P<c>[a-zA-Z@]+)(?P<parameters>(?:\s*#[1-9])*)\s*(?=\{)"
    r"|DeclareMathOperator(?P<star>\*?)\s*\{\s*\\(?P<d>[a-zA-Z@]+)\s*\})"
)
LONGEST_OPTION, LONGEST_ARGUMENTS = 1_000, 20_000
"""Characters of an optional argument, and of all arguments of one use."""
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_COUNT = re.compile(r"\s*\[\s*([0-9])\s*\]")
_COMMAND = re.compile(r"\\(?:[a-zA-Z@]+|.)", re.DOTALL)
_PARAMETER = re.compile(r"#([1-9])")
_WORD = re.compile(r"\\([a-zA-Z@]+)")
_NEVER_NAMES = (
    "begin end item input include part chapter section subsection subsubsection paragraph subparagraph appendix "
    "bibliography label ref cite caption footnote newcommand def verb"
)
_NEVER = frozenset(_NEVER_NAMES.split())
"""What has a meaning of its own, however an author changes its looks."""


@dataclass(frozen=True)
class Macro:
    """What stands for a command."""

    arguments: int
    default: str | None
    """Of the first argument, if that may be left out."""
    body: str


def take_definitions(text: str) -> tuple[str, dict[str, Macro]]:
    """The text without definitions, and the macros; the last definition of a name counts."""
    macros: dict[str, Macro] = {}
    pairs = _pairs(text)
    kept, at = [], 0
    while found := _DEFINE.search(text, at):
        read = _read_definition(text, found, pairs)
        if read is None:
            kept.append(text[at : found.end()])
            at = found.end()
            continue
        name, macro, end = read
        if name in _NEVER or _PROGRAM.search(macro.body):
            macros.pop(name, None)
        else:
            macros[name] = macro
        kept.append(text[at : found.start()])
        at = end
    return "".join(kept) + text[at:], macros


def _read_definition(text: str, found: re.Match[str], pairs: dict[int, int]) -> tuple[str, Macro, int] | None:
    """Name, macro, and where the definition ends; None if it is not whole."""
    at, arguments, default = found.end(), 0, None
    if found["new"]:
        if count := _COUNT.match(text, at):
            arguments, at = int(count[1]), count.end()
            at = _skip_blanks(text, at)
            if text.startswith("[", at):
                if (end := _bracket(text, at)) is None:
                    return None
                default, at = text[at + 1 : end], end + 1
    elif found["def"]:
        arguments = found["parameters"].count("#")
    at = _skip_blanks(text, at)
    if (end := pairs.get(at)) is None:
        return None
    body = text[at + 1 : end]
    if found["d"]:
        body = rf"\operatorname{found['star']}{{{body}}}"
    name = next(name for name in (found["a"], found["b"], found["c"], found["d"]) if name)
    return name, Macro(arguments, default, body), end + 1


class _Endless(Exception):
    """A macro grows beyond measure."""


def expand(text: str, macros: dict[str, Macro], verbatim: Sequence[tuple[int, int]] = ()) -> tuple[str, int]:
    """The text with every macro written out, and how many uses were left as they were.

    Args:
        verbatim: spans of the text that stay as they are.
    """
    if not macros:
        return text, 0
    left = 0
    kept, at, spans, pairs = [], 0, list(verbatim), _pairs(text)
    while found := _WORD.search(text, at):
        while spans and spans[0][1] <= found.start():
            spans.pop(0)
        inside = bool(spans) and spans[0][0] <= found.start()
        name, escaped = found[1], _is_escaped(text, found.start())
        if inside or escaped or name not in macros:
            kept.append(text[at : found.end()])
            at = found.end()
            continue
        try:
            written, end = _write_out(text, found, macros, frozenset(), MOST_GROWTH, pairs)
        except _Endless:
            left += 1
            written, end = found[0], found.end()
        kept += [text[at : found.start()], written]
        at = end
    return "".join(kept) + text[at:], left


def _write_out(
    text: str, found: re.Match[str], macros: dict[str, Macro], active: frozenset[str], room: int, pairs: dict[int, int]
) -> tuple[str, int]:
    """What stands for one use of a macro, and where the use ends in the text."""
    name = found[1]
    macro = macros[name]
    arguments, end = _read_arguments(text, found.end(), macro, pairs)
    room += end - found.end()
    body = _PARAMETER.sub(lambda sign: _argument(sign, arguments), macro.body)
    if len(body) > room or end - found.end() > LONGEST_ARGUMENTS:
        raise _Endless
    active = active | {name}
    kept, at, size, inner = [], 0, 0, _pairs(body)
    while use := _WORD.search(body, at):
        if use[1] in macros and use[1] not in active and not _is_escaped(body, use.start()):
            written, after = _write_out(body, use, macros, active, room - size, inner)
        else:
            written, after = use[0], use.end()
        kept += [body[at : use.start()], written]
        size += use.start() - at + len(written)
        at = after
        if size > room:
            raise _Endless
    made = "".join(kept) + body[at:]
    if len(made) > room:
        raise _Endless
    if made[-1:].isalpha() and re.search(r"\\[a-zA-Z@]+\Z", made) and text[end : end + 1].isalpha():
        made += " "  # the command's last word must not run into the text's next
    return made, end


def _argument(sign: re.Match[str], arguments: Sequence[str]) -> str:
    number = int(sign[1])
    return arguments[number - 1] if number <= len(arguments) else sign[0]


def _read_arguments(text: str, at: int, macro: Macro, pairs: dict[int, int]) -> tuple[list[str], int]:
    """A use's arguments, groups or single signs, and where they end."""
    arguments: list[str] = []
    if macro.default is not None:
        start = _skip_blanks(text, at)
        end = _bracket(text, start)
        arguments.append(macro.default if end is None else text[start + 1 : end])
        at = at if end is None else end + 1
    while len(arguments) < macro.arguments:
        start = _skip_blanks(text, at)
        if start >= len(text):
            arguments.append("")
            continue
        if (end := pairs.get(start)) is not None:
            arguments.append(text[start + 1 : end])
            at = end + 1
        elif word := _COMMAND.match(text, start):
            arguments.append(word[0])
            at = word.end()
        else:
            arguments.append(text[start])
            at = start + 1
    if not macro.arguments and text.startswith("{}", at):
        at += 2
    return arguments, at


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


def _bracket(text: str, start: int) -> int | None:
    """Where the square bracket at `start` is closed: an optional argument is short, and holds no other."""
    end = text.find("]", start, start + LONGEST_OPTION) if text.startswith("[", start) else -1
    return None if end < 0 else end


def _skip_blanks(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\n") and at < len(text):
        at += 1
    return at


def _is_escaped(text: str, at: int) -> bool:
    r"""Whether an odd number of backslashes stands before: `\\foo` is a line's end and a word."""
    count = 0
    while at - count - 1 >= 0 and text[at - count - 1] == "\\":
        count += 1
    return count % 2 == 1
