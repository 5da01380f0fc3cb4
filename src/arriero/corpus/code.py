"""LLaMA's rules for code (section 2.1): the header with the licence goes, and so do files that nobody wrote by hand.

The header is a first block comment that says "copyright", else the leading lines of comments. The line that names the
interpreter (`#!`) stays. Dropped are files with a line of more than 1,000 characters, lines of more than 100 on the
mean, less than a quarter letters and digits, or fewer than 1.5 letters a token; a token is a word or a run of signs.
"""

import re
from pathlib import PurePosixPath

from arriero.corpus.document import Document, Each

LONGEST_LINE, LONGEST_MEAN = 1_000, 100
LEAST_ALPHANUMERIC, LEAST_LETTERS = 0.25, 1.5

_NAMES = (
    "asm bat c cc cmake cpp cs css cu cxx dart ex exs erl f90 for go graphql h hh hpp hs html java jl js json jsx kt "
    "kts less lisp lua m makefile md ml mm php pl pm proto ps1 py pyi r rb rs rst s sass scala scss sh sol sql swift "
    "tcl tex toml ts tsx vb vue yaml yml zig clj cljs fs fsx groovy nim d pas tf dockerfile ipynb"
)
EXTENSIONS = frozenset(_NAMES.split())
"""Of files that are read; a Makefile and a Dockerfile count by their names."""
_BLOCK = re.compile(
    r"""\s*(?:/\*.*?\*/|<!--.*?-->|\(\*.*?\*\)|\{-.*?-\}|\"{3}[^"]*?\"{3}|'{3}[^']*?'{3})[ \t]*\n?""", re.DOTALL
)
_LINE = re.compile(r"(?:[ \t]*(?:#|//|--|;|%|\"\s|REM\b|!)[^\n]*(?:\n|\Z))+", re.IGNORECASE)
_FIRST = re.compile(r"(?:#![^\n]*\n)?(?:[ \t]*#[^\n]*coding[:=][^\n]*\n)?")
_COPYRIGHT = re.compile(r"copyright", re.IGNORECASE)
_LICENCE = re.compile(r"copyright|licen[cs]e|all rights reserved|spdx", re.IGNORECASE)
_LETTERS_AND_DIGITS = re.compile(r"[^\W_]+")
_LETTERS = re.compile(r"[^\W\d_]+")
_TOKEN = re.compile(r"\w+|[^\w\s]+")
_HEADER = 50_000
"""Characters in which a header ends."""


def clean_code() -> Each:
    """The step that takes the header off and drops what no one wrote."""

    def clean(document: Document) -> Document:
        text = without_header(document.text.replace("\r\n", "\n"))
        reason = why_drop(text)
        return document.drop(f"code: {reason}") if reason else document.with_text(text)

    return Each("code", clean)


def is_code(path: str) -> bool:
    """Whether a file's name is one of those that are read."""
    name = PurePosixPath(path).name.lower()
    return (PurePosixPath(name).suffix.removeprefix(".") or name) in EXTENSIONS


def without_header(text: str) -> str:
    """The file without its header; interpreter and encoding, which its first lines may name, stay."""
    first = _FIRST.match(text)
    assert first is not None
    start = first.end()
    head = text[start : start + _HEADER]
    block = _BLOCK.match(head)
    if block and _COPYRIGHT.search(block[0]):
        return text[:start] + text[start + block.end() :].lstrip("\n")
    blank = len(head) - len(head.lstrip())
    lines = _LINE.match(head, blank)
    if lines and _LICENCE.search(lines[0]):
        return text[:start] + text[start + lines.end() :].lstrip("\n")
    return text


def why_drop(text: str) -> str | None:
    """The first rule that a file breaks."""
    lines = text.split("\n")
    if max(map(len, lines)) > LONGEST_LINE:
        return "a line too long"
    if len(text) > LONGEST_MEAN * len(lines) + len(lines):
        return "lines too long"
    characters = len(text)
    if not characters:
        return "nothing but a header"
    if sum(map(len, _LETTERS_AND_DIGITS.findall(text))) < LEAST_ALPHANUMERIC * characters:
        return "too few letters and digits"
    if sum(map(len, _LETTERS.findall(text))) < LEAST_LETTERS * len(_TOKEN.findall(text)):
        return "too few letters a token"
    return None
