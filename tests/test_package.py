"""`import arriero` is light, and what it offers is there, for people and for type checkers."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import arriero

PACKAGE = Path(arriero.__file__).parent
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_import_brings_nothing_heavy():
    code = "import sys, arriero; print(*(sys.modules.keys() & {'torch', 'numpy', 'tokenizers', 'rich', 'sqlite3'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_every_name_is_at_home_where_type_checkers_find_it():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {name.name: node.module for node in block.body for name in node.names}
    assert typed == {name: f"arriero.{home}" for name, home in arriero._HOMES.items()}
    assert sorted(typed) == arriero.__all__
    for name, home in typed.items():
        assert getattr(arriero, name) is getattr(import_module(home), name)
    assert set(arriero.__all__) <= set(dir(arriero))


def test_the_environment_is_built_of_pinned_wheels_alone():
    """No compiler is needed to install it."""
    root = Path(__file__).parents[1]
    installs = [line for line in (root / "Makefile").read_text().splitlines() if "--requirement" in line]
    assert installs
    assert all("--only-binary :all:" in line for line in installs)
    pins = [line for line in (root / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    assert all("==" in line for line in pins)
    assert [line.partition("==")[0] for line in pins if line.endswith("; platform_system == 'Linux'")] == ["triton"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Modle'"):
        _ = arriero.Modle


def test_training_lists_what_it_imports():
    training = import_module("arriero.training")
    tree = ast.parse(Path(training.__file__).read_text(encoding="utf-8"))
    imported = [name.name for node in tree.body if isinstance(node, ast.ImportFrom) for name in node.names]
    assert sorted(imported) == training.__all__
    functions = [name for name in training.__all__ if callable(getattr(training, name)) and name.islower()]
    assert all(f"`{name}(" in training.__doc__ for name in functions)


def test_every_extra_that_is_named_exists():
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    texts += [path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))]
    named = {name for text in texts for words in re.findall(r"arriero\[([a-z,]+)\]", text) for name in words.split(",")}
    named |= {name for text in texts for name in re.findall(r'require\([^)]*extra="(\w+)"', text)}
    assert {"rag", "corpus", "serve"} <= named <= set(PROJECT["optional-dependencies"])


def test_the_changelog_begins_with_the_version_that_is_built():
    newest = re.search(r"^## (\S+),", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["version"]
