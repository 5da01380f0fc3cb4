"""Source code: text as it stands; a Python file is divided by its top-level definitions."""

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator

from arriero.parsers.document import Section
from arriero.parsers.encoding import decode
from arriero.parsers.limits import Budget, Parsed


def read_code(data: bytes, budget: Budget) -> Parsed:
    """One section: other languages are not parsed."""
    text, encoding = decode(data)
    budget.characters(len(text))
    return Parsed([Section(text)], {"encoding": encoding})


def read_python(data: bytes, budget: Budget) -> Parsed:
    """A section for each top-level class or function ('class Engine', 'def load'), and for what stands between.

    A file that this Python cannot parse (another version's, a template) is read as other code is.
    """
    text, encoding = decode(data, _cookie(data))
    budget.characters(len(text))
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return Parsed(list(python_sections(text)), {"encoding": encoding})


def python_sections(text: str) -> Iterator[Section]:
    """The sections of a Python source whose lines end in a newline alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning for the file's own invalid escapes
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        yield Section(text)
        return
    lines = text.split("\n")
    at = 0
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        start = _first_line(node, lines, at)
        if start > at:
            yield Section("\n".join(lines[at:start]))
        at = node.end_lineno or start
        kind = "class" if isinstance(node, ast.ClassDef) else "def"
        yield Section("\n".join(lines[start:at]), title=f"{kind} {node.name}")
    yield Section("\n".join(lines[at:]))


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, lines: list[str], at: int) -> int:
    """Index of a definition's first line: its decorators' and the comments right above belong to it."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    while first > at and lines[first - 1].startswith("#"):
        first -= 1
    return max(first, at)


def _cookie(data: bytes) -> str | None:
    """The encoding that PEP 263's comment declares, if it is a real one."""
    try:
        return tokenize.detect_encoding(io.BytesIO(data[:4096]).readline)[0]
    except (SyntaxError, UnicodeDecodeError):
        return None
