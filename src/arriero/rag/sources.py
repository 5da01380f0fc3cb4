"""Where documents come from: which files a source holds, where they lie, and what they are called.

A location is a path relative to the collection's folder, in the bytes of the file system, so that a collection moved
along with its documents still finds them, and a name that is no valid Unicode is still a name.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from arriero.rag.folders import walk

KEPT = "files"
"""Folder in a collection's own for files that lie nowhere else, such as uploaded ones: documents like any others."""


@dataclass(frozen=True)
class SourceFile:
    """A file that a source holds."""

    path: Path
    location: bytes
    name: str
    """What it would be called if nothing else had that name."""


def locate(path: Path, collection: Path) -> bytes:
    """A path's location, as stored."""
    parent = (
        path.absolute().parent.resolve()
    )  # the folder may be reached by a link; a file that is a link keeps its name
    whole = path.resolve() if path.name in ("", "..") else parent / path.name
    return os.fsencode(os.path.relpath(whole, collection.resolve()))


def place(location: bytes, collection: Path) -> Path:
    """The path that a location means from here."""
    return Path(os.path.normpath(collection.resolve() / os.fsdecode(location)))


def is_under(location: bytes, folder: bytes) -> bool:
    """Whether a location is the folder's own or below it."""
    if folder == b".":  # the collection's own folder
        return not location.startswith(b"../") and location != b".."
    return location == folder or location.startswith(folder + b"/")


def source_files(source: Path, collection: Path, skipped: Counter[str] | None = None) -> Iterator[SourceFile]:
    """Files of a source in order of their names: the file itself, or the documents in a folder and below."""
    root = source.resolve() if source.is_dir() else source.absolute().parent
    start = root if source.is_dir() else root / source.name
    for path in walk([start], skipped):
        called = f"{root.name}/{path.relative_to(root).as_posix()}" if source.is_dir() else path.name
        location = locate(path, collection)
        if not is_under(location, b".") or is_under(location, KEPT.encode()):  # its other files are no documents
            yield SourceFile(path, location, printable(called.lstrip("/")))


@dataclass
class Survey:
    """What the sources of a collection hold now."""

    files: dict[bytes, tuple[SourceFile, Mapping[str, str]]] = field(default_factory=dict)
    """Location → file and the metadata given with its sources."""
    unseen: dict[bytes, str] = field(default_factory=dict)
    """Source that could not be looked at as a whole → why."""
    skipped: Counter[str] = field(default_factory=Counter)
    """What no parser reads, by suffix or kind."""


def look_over(sources: Mapping[bytes, tuple[str, Mapping[str, str]]], folder: Path) -> Survey:
    """Look at all sources of the collection in a folder: location → kind and the metadata given with it."""
    survey = Survey()
    excluded = {location for location, (kind, _) in sources.items() if kind == "excluded"}
    for location, (kind, given) in sources.items():
        path = place(location, folder)
        if kind == "excluded" or (kind == "file" and path.parent.is_dir() and not path.exists()):
            continue
        if not path.exists() or (kind == "folder" and not path.is_dir()):
            survey.unseen[location] = "not found; its documents stay (`rag remove` forgets them)"
            continue
        skipped = Counter[str]()
        for file in source_files(path, folder, skipped):
            if file.location not in excluded:
                earlier = survey.files.get(file.location, (file, {}))[1]
                survey.files[file.location] = (file, {**earlier, **given})
        survey.skipped.update(skipped)
        if skipped["unreadable folder"]:
            survey.unseen[location] = "a folder in it cannot be read; its documents stay"
    return survey


def pick_name(file: SourceFile, taken: Container[str]) -> str:
    """The file's name, with as many of its folders before it as tell it from those that are taken."""
    name, parents = file.name, list(file.path.absolute().parts[:-1])
    depth = file.name.count("/")
    for folder in reversed(parents[1 : len(parents) - depth]):
        if name not in taken:
            return name
        name = printable(f"{folder}/{name}")
    number = 2
    candidate = name
    while candidate in taken:
        candidate = f"{name} ({number})"
        number += 1
    return candidate


def printable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8, control and direction characters as escapes.

    A name goes into prompts and citations, where a line break or a turned direction would tell lies.
    """
    escaped = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if _is_plain(char) else char.encode("unicode_escape").decode("ascii") for char in escaped)


def same_name(first: str, second: str) -> bool:
    """Whether two names look the same: composed and decomposed accents are one."""
    return unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", second)


def _is_plain(char: str) -> bool:
    joiners = "\u200c\u200d"  # spelling in Persian and in emoji
    return char in joiners or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
