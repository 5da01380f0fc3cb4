"""The project's pages, and what in them can be checked: commands, links, and lines of code that they show."""

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from arriero.cli.commands import COMMANDS, GROUPS
from arriero.cli.parser import parse

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ELISION = "…"
"""A line of a shown piece of code that stands for lines which are left out."""


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[tuple[str, str]]:
    """Fenced blocks of a language: what follows the language's name in the first line, and the lines."""
    return re.findall(rf"^```{language}\b(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The words of each `arriero …` command line in shell blocks and indented ones."""
    shell = "\n".join(lines for language in ("sh", "bash") for _, lines in blocks(text, language))
    indented = "\n".join(re.findall(r"^    (\S.*(?:\\\n.*)*)", text, re.MULTILINE))
    lines = re.sub(r"\\\n\s*", "", shell + "\n" + indented).splitlines()
    return [words for line in lines if (words := _own_words(line))]


def typed(text: str) -> list[str]:
    """The lines of shell blocks, of any program, without comments."""
    shell = re.sub(r"\\\n\s*", "", "\n".join(lines for _, lines in blocks(text, "sh")))
    return [line for raw in shell.splitlines() if (line := raw.partition("  #")[0].strip())]


def mentions(text: str) -> list[list[str]]:
    """The words of each `arriero …` between backticks that says more than a command's name; it may leave words out."""
    found = re.findall(r"(?<!`)`([^`\n|…]+)`(?!`)", text)
    return [words for code in found if (words := _own_words(code)) and " ".join(words) not in {*COMMANDS, *GROUPS}]


def _own_words(line: str) -> list[str]:
    """What `arriero` is given by a line of a shell, with or without torchrun; nothing if it is another program's."""
    found = re.match(r"\s*(?:\w+=\S+ )*(?:\S*torchrun .* -m )?arriero ([a-z].+)", line.partition("  #")[0])
    if not found:
        return []
    words = shlex.split(found[1], comments=True)
    return words[: next((n for n, word in enumerate(words) if word in (">", "<", "|", "&", "&&", ";")), len(words))]


def parse_command(words: list[str]) -> Any:
    """The settings of an `arriero …` command line.

    Raises:
        LookupError, UsageError: there is no such command, or it does not take these words.
    """
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), None)
    if name is None:
        raise LookupError(f"no command: {' '.join(words)}")
    module, _, function = COMMANDS[name].target.partition(":")
    return parse(f"arriero {name}", getattr(import_module(module), function), words[len(name.split()) :])


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The files that a page links to or shows as pictures, with the part after `#`; not other sites."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            path, _, part = target.partition("#")
            yield (page.parent / path).resolve() if path else page, part


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them of ASCII ones."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def symbols(path: Path) -> set[str]:
    """Names that a Python file defines at its top and in its classes, `Class.method` too."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for name in _names(node.body)}
        found |= _names([node])
    return found


def _names(nodes: list[ast.stmt]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {
            name.id for target in targets for name in ast.walk(target or ast.Pass()) if isinstance(name, ast.Name)
        }
    return found


def holds(source: str, shown: str) -> bool:
    """Whether a file has the lines that a page shows of it, in their order, indented as they may be."""
    lines = source.splitlines()
    for piece in shown.rstrip("\n").split(f"\n{ELISION}\n"):
        wanted = piece.splitlines()
        ends = (
            n + len(wanted)
            for n in range(len(lines) - len(wanted) + 1)
            if textwrap.dedent("\n".join(lines[n : n + len(wanted)])).splitlines() == wanted
        )
        end = next(ends, None)
        if end is None:
            return False
        lines = lines[end:]
    return True
