"""Files of repositories: a folder for each, or JSON Lines with a file in each, as code is published in bulk.

LLaMA took repositories under MIT, BSD and Apache licences (section 2.1). The licence is what the repository's own
LICENSE file says, or in JSON Lines the field.
"""

import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Any

from arriero.common.compression import DAMAGE, SUFFIXES, open_bytes
from arriero.corpus.code import EXTENSIONS, is_code
from arriero.corpus.decoding import decode_utf8
from arriero.corpus.document import MAX_BYTES, Document
from arriero.corpus.jsonl import bounded_lines

LICENCES = ("MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0")
_LICENCE_NAME = re.compile(r"(?:un)?licen[cs]e|copying", re.IGNORECASE)
_TEXT_SUFFIXES = frozenset({"md", "rst", "html"})
_SKIPPED_FOLDERS = frozenset({"node_modules", "vendor", "third_party", "__pycache__", "dist", "build"})
_MARKS = {
    "Apache-2.0": ("apache license", "version 2.0"),
    "MIT": ("permission is hereby granted, free of charge, to any person", 'the software is provided "as is"'),
    "BSD-3-Clause": ("redistribution and use in source and binary forms", "endorse or promote"),
    "BSD-2-Clause": ("redistribution and use in source and binary forms", "this list of conditions"),
}
"""Phrases that a licence's text holds, the first where it begins; of several licences in a file the first counts."""
_OTHERS = (
    "gnu general public license",
    "gnu lesser general public",
    "gnu affero general public",
    "mozilla public license",
    "commons clause",
    "advertising materials mentioning",  # BSD with four clauses
    "may not be called",  # Apache 1
    "good, not evil",  # JSON
    "to any person or organization",  # Boost
)
"""Phrases of licences that read like one of the four and are none, or that a file holds beside one."""
_OF_PYTHON = "previously distributed under the gnu general public license"
"""What the licence of Python says of its past."""
_QUOTES = str.maketrans("\u201c\u201d", '""')
_HEAD = 40_000
"""Bytes of a licence that are looked at."""
_FIELDS = {"content": ("content", "text", "code"), "path": ("path", "file", "file_path"), "repo": ("repo", "repo_name")}


class CodeReader:
    """A reader of repositories under some licences."""

    def __init__(
        self,
        licences: Collection[str] = LICENCES,
        field: str = "text",
        extensions: Collection[str] = EXTENSIONS,
    ) -> None:
        """
        Args:
            licences: identifiers (SPDX) of those that are kept; empty for any.
            field: of JSON Lines, holds the file's content; `content` and `code` are looked for too.
            extensions: of files that are read, without the dot.
        """
        self._licences = {licence.lower() for licence in licences}
        self._field = field
        self._extensions = frozenset(extensions)

    def __call__(self, path: Path, name: str) -> Iterator[Document]:
        """The files of a folder, or of a file of JSON Lines; ids end in the path, or the number of the line.

        A folder is a repository or holds some: a file's licence is the one that lies nearest above it.
        """
        if path.is_dir():
            yield from self._folder(path, name)
        elif _is_json_lines(path.name):
            yield from self._lines(path, name)
        else:
            yield self._file(path, Document(id=f"{name}#", text="", origin=name))

    def _folder(self, root: Path, name: str) -> Iterator[Document]:
        """All files below a folder, those of folders behind those beside them, by name."""
        pending: list[tuple[Path, str | None]] = [(root, None)]
        while pending:
            folder, licence = pending.pop()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            inner = _printable(folder.relative_to(root))
            if folder != root and (folder.name.startswith(".") or folder.name in _SKIPPED_FOLDERS):
                skipped = Document(id=f"{name}#{inner}/", text="", origin=f"{name}/{inner}/")
                yield skipped.drop("github: folder not looked into (hidden, made, or of others)")
                continue
            if any(map(_is_licence, entries)):
                licence = repository_licence(folder)
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    place = _printable(Path(entry.path).relative_to(root))
                    document = Document(id=f"{name}#{place}", text="", origin=f"{name}/{place}", licence=licence)
                    yield self._file(Path(entry.path), document)
            folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
            pending += [(inside, licence) for inside in reversed(folders)]

    def _file(self, path: Path, document: Document) -> Document:
        if path.is_symlink() or not path.is_file():
            return document.drop("github: no ordinary file")
        if reason := self._unwanted(document, path.name):
            return document.drop(reason)
        if path.stat().st_size > MAX_BYTES:
            return document.drop("github: longer than 64 MiB")
        text, reason = decode_utf8(path.read_bytes())
        return document.drop(reason) if reason else document.with_text(text)

    def _unwanted(self, document: Document, path: str) -> str | None:
        """Why a file is not even read."""
        name = path.rpartition("/")[2]
        if _has_licence_name(name) or name.lower().endswith(".crt"):
            return "github: a licence or certificate"
        if not is_code(path, self._extensions):
            return "github: no code (extension)"
        if self._licences and (document.licence or "").lower() not in self._licences:
            return "github: licence not wanted" if document.licence else "github: no licence known"
        return None

    def _lines(self, path: Path, name: str) -> Iterator[Document]:
        number = 0
        with open_bytes(path) as (content, _):
            try:
                for number, line in enumerate(bounded_lines(content), 1):
                    document = Document(id=f"{name}#{number}", text="", origin=str(path))
                    if line is None:
                        yield document.drop("json: longer than 64 MiB")
                    elif line.strip():
                        yield self._row(document, line)
            except (*DAMAGE, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                cut = Document(id=f"{name}#{number + 1}", text=str(error), origin=str(path))
                yield cut.drop("json: the file is cut off or damaged from here on")

    def _row(self, document: Document, line: bytes) -> Document:
        text, reason = decode_utf8(line)
        if reason:
            return document.drop(reason)
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            return document.drop("json: broken line")
        if not isinstance(row, dict):
            return document.drop("json: no object")
        fields = {**_FIELDS, "content": (self._field, *_FIELDS["content"])}
        found = {name: _first_text(row, keys) for name, keys in fields.items()}
        if found["content"] is None:
            return document.drop("json: no text in its field")
        licence = _first_text(row, ("license", "licence"))
        where = "/".join(part for part in (found["repo"], found["path"]) if part) or document.origin
        made = Document(id=document.id, text=found["content"], origin=where, licence=_spdx(licence))
        if reason := self._unwanted(made, found["path"] or "file.py"):
            return made.drop(reason)
        if "\x00" in made.text:
            return made.with_text("").drop("nul bytes")
        return made if made.text.strip() else made.drop("empty")


def repository_licence(folder: Path) -> str | None:
    """The licence of a repository, told by phrases of its LICENSE file; None where it is none of the four."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if _is_licence(entry):
            with Path(entry.path).open("rb") as file:
                text = file.read(_HEAD).decode("utf-8", "replace").lower().translate(_QUOTES)
            text = " ".join(text.replace("``", '"').replace("''", '"').split())
            if any(phrase in text.replace(_OF_PYTHON, "") for phrase in _OTHERS):
                continue
            found = [licence for licence, marks in _MARKS.items() if all(mark in text for mark in marks)]
            if found:
                return min(found, key=lambda licence: text.index(_MARKS[licence][0]))
    return None


def _is_licence(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False) and _has_licence_name(entry.name)


def _has_licence_name(name: str) -> bool:
    """Whether a file holds a licence: `LICENSE.txt` does, `license_check.py` does not."""
    suffix = PurePath(name).suffix.lower().removeprefix(".")
    return bool(_LICENCE_NAME.match(name)) and (suffix in _TEXT_SUFFIXES or suffix not in EXTENSIONS)


def _is_json_lines(name: str) -> bool:
    path = PurePath(name)
    return PurePath(path.stem if path.suffix in SUFFIXES else name).suffix in (".jsonl", ".json", ".ndjson")


def _printable(path: PurePath) -> str:
    """A path as text, whatever bytes it has."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def _first_text(row: dict[str, Any], keys: Collection[str]) -> str | None:
    """What the first of some fields holds that is text."""
    return next((row[key] for key in keys if isinstance(row.get(key), str)), None)


def _spdx(licence: str | None) -> str | None:
    """The identifier behind a name in other letters."""
    known = {name.lower(): name for name in LICENCES}
    return licence if licence is None else known.get(licence.lower(), licence)
