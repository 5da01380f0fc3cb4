"""LLaMA's rules for code (section 2.1): the header with the licence goes, and so do files that nobody wrote by hand.

The header is a first block comment that says "copyright", else of the leading lines of comments those paragraphs that
do; a docstring is one only if it begins so. The line that names the interpreter (`#!`) stays. Dropped are files with a
line of more than 1,000 characters, lines of more than 100 on the mean, less than a quarter letters and digits, or fewer
than 1.5 letters a token; a token is a word or a run of signs.
"""

import re
from collections.abc import Collection
from pathlib import PurePosixPath

import numpy as np

from arriero.corpus.document import Document, Each

LONGEST_LINE, LONGEST_MEAN = 1_000, 100
LEAST_ALPHANUMERIC, LEAST_LETTERS = 0.25, 1.5

_NAMES = (
    "asm bat c cc cmake cpp cs css cu cxx dart ex exs erl f90 for go graphql h hh hpp hs html java jl js json jsx kt "
    "kts less lisp lua m makefile md ml mm php pl pm proto ps1 py pyi r rb rs rst s sass scala scss sh sol sql swift "
    "tcl tex toml ts tsx vb vue yaml yml zig clj cljs fs fsx groovy nim d pas tf dockerfile ipynb bash zsh cmd f f95 "
    "pyx markdown svelte hrl"
)
EXTENSIONS = frozenset(_NAMES.split())
"""Of files that are read; a Makefile and a Dockerfile count by their names."""
_PROLOGUE = re.compile(
    r"(?:\s*+(?:<\?[^\n]{0,500}\n|<!DOCTYPE[^>]{0,500}>|#\s*+(?:ifndef|define|pragma)\b[^\n]*\n"
    r"|(?:package|@charset)\b[^\n]*\n|(?:\"use strict\"|'use strict');?))*+\s*+",
    re.IGNORECASE,
)
"""What may stand before a header: PHP's or XML's first line, a guard, a package."""
_BLOCK = re.compile(
    r"(?:/\*.*?\*/|<!--.*?-->|\(\*.*?\*\)|\{-.*?-\}|--\[\[.*?\]\]"
    r"|\"{3}\s*+(?:copyright|\(c\))[^\"]*\"{3}|'{3}\s*+(?:copyright|\(c\))[^']*'{3})[ \t]*\n?",
    re.DOTALL | re.IGNORECASE,
)
_MARK = re.compile(
    r"[ \t]*+(#(?!(?:include|define|undef|if|ifdef|ifndef|elif|else|endif|error|pragma|import)\b|[\w-]++\s*+[{,:.])"
    r"|//|--|;|%|\"(?=\s)|REM\b|!(?=\s))",
    re.IGNORECASE,
)
"""What a line of comment begins with; `#include`, and `#name {` in a style sheet, are none."""
_EMPTY_LINE = re.compile(r"\n[ \t]*\n")
_FIRST = re.compile(r"(?:#![^\n]*\n)?(?:[ \t]*#[^\n]*coding[:=][^\n]*\n)?")
_COPYRIGHT = re.compile(r"copyright", re.IGNORECASE)
_LICENCE = re.compile(r"copyright|spdx-license-identifier|licen[cs]ed under|all rights reserved|\xa9", re.IGNORECASE)
_LETTERS_AND_DIGITS = re.compile(r"[^\W_]+")
_LETTERS = re.compile(r"[^\W\d_]+")
_TOKEN = re.compile(r"\w+|[^\w\s]+")
_ASCII = [chr(code) for code in range(128)]
_NEITHER = "".join(sign for sign in _ASCII if not _LETTERS_AND_DIGITS.match(sign)).encode()
_NO_LETTERS = "".join(sign for sign in _ASCII if not _LETTERS.match(sign)).encode()
_KINDS = bytes(0 if sign.isspace() else 1 + (sign.isalnum() or sign == "_") for sign in _ASCII) + bytes(128)
"""0 for a blank, 1 for a sign, 2 for what a word is made of."""
_HEADER = 50_000
"""Characters in which a header ends."""


def clean_code() -> Each:
    """The step that takes the header off and drops what no one wrote."""

    def clean(document: Document) -> Document:
        text = without_header(document.text.replace("\r\n", "\n"))
        reason = why_drop(text)
        return document.drop(f"code: {reason}") if reason else document.with_text(text)

    return Each("code", clean)


def is_code(path: str, extensions: Collection[str] = EXTENSIONS) -> bool:
    """Whether a file's name is one of those that are read."""
    name = PurePosixPath(path).name.lower()
    return (PurePosixPath(name).suffix.removeprefix(".") or name) in extensions


def without_header(text: str) -> str:
    """The file without its header; interpreter and encoding, which its first lines may name, stay."""
    first = _FIRST.match(text)
    start = first.end() if first else 0
    head = text[start : start + _HEADER]
    before = _PROLOGUE.match(head)
    at = before.end() if before else 0
    block = _BLOCK.match(head, at)
    if block and _COPYRIGHT.search(block[0]):
        return text[: start + at] + text[start + block.end() :].lstrip("\n")
    end = _end_of_comments(head, at)
    paragraphs = _EMPTY_LINE.split(head[at:end].strip("\n"))
    kept = [paragraph for paragraph in paragraphs if not _LICENCE.search(paragraph)]
    if len(kept) == len(paragraphs) or end == _HEADER:
        return text
    rest = text[start + end :].lstrip("\n")
    return text[: start + at] + "\n\n".join([*kept, rest])


def _end_of_comments(head: str, at: int) -> int:
    """Where the lines end, empty ones between them, that begin as the first comment does."""
    first = None
    for line in head[at:].splitlines(keepends=True):
        mark = _MARK.match(line)
        if line.strip() and not (mark and first in (None, mark[1])):
            break
        first = mark[1] if mark else first
        at += len(line)
    return at


def why_drop(text: str) -> str | None:
    """The first rule that a file breaks."""
    lines = text.split("\n")
    if max(map(len, lines)) > LONGEST_LINE:
        return "a line too long"
    if sum(map(len, lines)) > LONGEST_MEAN * len(lines):
        return "lines too long"
    if not text:
        return "nothing but a header"
    alphanumeric, letters, tokens = count_signs(text)
    if alphanumeric < LEAST_ALPHANUMERIC * len(text):
        return "too few letters and digits"
    if letters < LEAST_LETTERS * tokens:
        return "too few letters a token"
    return None


def count_signs(text: str) -> tuple[int, int, int]:
    """Letters and digits; letters; and tokens, by tables of bytes where a text is ASCII, as nearly all code is."""
    if not text.isascii():
        alphanumeric = sum(map(len, _LETTERS_AND_DIGITS.findall(text)))
        return alphanumeric, sum(map(len, _LETTERS.findall(text))), len(_TOKEN.findall(text))
    data = text.encode()
    kinds = np.frombuffer(data.translate(_KINDS), np.uint8)
    within = np.count_nonzero((kinds[1:] == kinds[:-1]) & (kinds[1:] != 0))
    tokens = np.count_nonzero(kinds) - within
    return len(data.translate(None, _NEITHER)), len(data.translate(None, _NO_LETTERS)), int(tokens)
