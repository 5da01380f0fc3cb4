"""Files of repositories: a folder for each, or JSON Lines with a file in each, as code is published in bulk.

LLaMA took repositories under MIT, BSD and Apache licences (section 2.1). The licence is what the repository's own
LICENSE file says, or in JSON Lines the field.
"""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from arriero.common.compression import DAMAGE, open_bytes
from arriero.corpus.code import is_code
from arriero.corpus.decoding import decode_utf8
from arriero.corpus.document import MAX_BYTES, Document
from arriero.corpus.jsonl import bounded_lines

LICENCES = ("MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0")
_LICENCE_FILE = re.compile(r"^(?:un)?licen[cs]e|^copying", re.IGNORECASE)
_SKIPPED_FOLDERS = frozenset({"node_modules", "vendor", "third_party", "__pycache__", "dist", "build"})
_MARKS = {
    "Apache-2.0": ("apache license", "version 2.0"),
    "MIT": ("permission is hereby granted, free of charge", 'the software is provided "as is"'),
    "BSD-3-Clause": ("redistribution and use in source and binary forms", "neither the name of"),
    "BSD-2-Clause": ("redistribution and use in source and binary forms", "this list of conditions"),
}
"""Phrases that a licence's text holds; the first whose phrases are all there."""
_FIELDS = {"content": ("content", "text", "code"), "path": ("path", "file", "file_path"), "repo": ("repo", "repo_name")}


class CodeReader:
    """A reader of repositories under some licences."""

    def __init__(self, licences: Collection[str] = LICENCES, field: str = "text") -> None:
        """
        Args:
            licences: identifiers (SPDX) of those that are kept; empty for any.
            field: of JSON Lines, holds the file's content; `content` and `code` are looked for too.
        """
        self._licences = {licence.lower() for licence in licences}
        self._field = field

    def __call__(self, path: Path, name: str) -> Iterator[Document]:
        """The files of a repository, or of a file of JSON Lines; ids end in the path, or the number of the line."""
        if path.is_dir():
            yield from self._folder(path, name)
        elif path.name.partition(".")[2].startswith(("jsonl", "json", "ndjson")):
            yield from self._lines(path, name)
        else:
            yield self._file(path, Document(id=f"{name}#", text="", origin=name))

    def _folder(self, folder: Path, name: str) -> Iterator[Document]:
        licence = repository_licence(folder)
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            if path.is_dir() or any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in inner.parts[:-1]):
                continue
            origin = f"{name}/{inner.as_posix()}"
            yield self._file(path, Document(id=f"{name}#{inner.as_posix()}", text="", origin=origin, licence=licence))

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
        if _LICENCE_FILE.match(name) or name.lower().endswith(".crt"):
            return "github: a licence or certificate"
        if not is_code(path):
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
        found = {
            name: next((row[key] for key in (*extra, *keys) if isinstance(row.get(key), str)), None)
            for name, keys in _FIELDS.items()
            for extra in [(self._field,) if name == "content" else ()]
        }
        if found["content"] is None:
            return document.drop("json: no text in its field")
        licence = next((row[key] for key in ("license", "licence") if isinstance(row.get(key), str)), None)
        where = "/".join(part for part in (found["repo"], found["path"]) if part) or document.origin
        made = Document(id=document.id, text=found["content"], origin=where, licence=_spdx(licence))
        if reason := self._unwanted(made, found["path"] or "file.py"):
            return made.drop(reason)
        if "\x00" in made.text:
            return made.with_text("").drop("nul bytes")
        return made if made.text.strip() else made.drop("empty")


def repository_licence(folder: Path) -> str | None:
    """The licence of a repository, told by phrases of its LICENSE file; None where it is none of the four."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.is_symlink() and _LICENCE_FILE.match(path.name):
            text = " ".join(path.read_bytes()[:20_000].decode("utf-8", "replace").lower().split())
            for licence, marks in _MARKS.items():
                if all(mark in text for mark in marks):
                    return licence
    return None


def _spdx(licence: str | None) -> str | None:
    """The identifier behind an older name."""
    old = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause"}
    return licence if licence is None else old.get(licence.lower(), licence)
