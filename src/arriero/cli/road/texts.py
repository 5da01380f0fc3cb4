"""Real text that every machine has: Python's language reference, its standard library, installed packages' READMEs.

They are laid out as the sources of a corpus (`arriero corpus run`): code as a repository of LLaMA's recipe for GitHub,
the others as folders of files. Nothing is imported to read it.
"""

import ast
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_folder

_FEWEST_CHARACTERS = 200
"""Of a README that says something."""


class Docstring(NamedTuple):
    """What the source says of a module, a class or a function."""

    name: str
    """With the module's: `textwrap.dedent`."""
    kind: str
    """module, class or function."""
    text: str


def topics() -> dict[str, str]:
    """The Python language reference, by topic, as `pydoc` carries it.

    Raises:
        ArrieroError: this Python was installed without it.
    """
    try:
        from pydoc_data.topics import topics as carried
    except ImportError as error:  # some distributions split it off
        raise ArrieroError("this Python lacks pydoc_data: install your distribution's full Python package") from error
    return dict(sorted(carried.items()))


def modules() -> list[Path]:
    """The standard library's modules of one file, without those that begin with an underscore.

    Raises:
        ArrieroError: this Python was installed without its sources.
    """
    library = Path(sysconfig.get_path("stdlib"))
    found = [path for path in sorted(library.glob("*.py")) if not path.name.startswith("_")]
    if not found:
        raise ArrieroError(f"no sources of the standard library in {library}: install your distribution's full Python")
    return found


def docstrings(files: list[Path]) -> Iterator[Docstring]:
    """The docstrings of public names in some modules, in their order."""
    for path in files:
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a file for another version
            continue
        yield from _of(tree, path.stem)


def _of(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[Docstring]:
    text = ast.get_docstring(node)
    if text:
        kind = {ast.Module: "module", ast.ClassDef: "class"}.get(type(node), "function")
        yield Docstring(name, kind, text)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and inner.name[0] != "_":
            yield from _of(inner, f"{name}.{inner.name}")


def readmes() -> dict[str, str]:
    """What installed packages say of themselves, by package."""
    found = {}
    for package in metadata.distributions():
        facts = package.metadata
        text = facts.get("Description") or facts.get_payload()  # type: ignore[attr-defined]
        if isinstance(text, str) and len(text) >= _FEWEST_CHARACTERS:
            found[facts["Name"]] = text
    return dict(sorted(found.items()))


def write_raw(folder: Path, most_modules: int) -> None:
    """Lay the texts out below `folder`, whole or not at all: code/python, docstrings, reference, readmes.

    Args:
        folder: is made; one that is there stays as it is.
        most_modules: so many modules' code at most, evenly chosen; their docstrings are all there.
    """
    if folder.is_dir():
        return
    every = modules()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_folder(folder) as aside:
            _write_code(aside / "code" / "python", every[:: -(-len(every) // most_modules)])
            said: dict[str, list[str]] = {}
            for found in docstrings(every):
                said.setdefault(found.name.partition(".")[0], []).append(f"{found.name}\n\n{found.text}\n")
            _write(aside / "docstrings", {name: "\n\n".join(texts) for name, texts in said.items()})
            _write(aside / "reference", topics())
            _write(aside / "readmes", readmes())
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise


def _write_code(folder: Path, files: list[Path]) -> None:
    """Copies, and the licence beside them."""
    folder.mkdir(parents=True)
    licence = files[0].parent / "LICENSE.txt"
    for path in files:
        (folder / path.name).write_bytes(path.read_bytes())  # unlike copyfile, a full disk is no fault of the source
    if licence.is_file():
        (folder / "LICENSE").write_bytes(licence.read_bytes())


def _write(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", errors="replace")
