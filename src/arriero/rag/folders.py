"""Which files of a folder are documents: sorted; no hidden, generated or unsupported ones; safe against link loops."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from arriero.common.errors import NotFoundError, did_you_mean
from arriero.parsers.parse import NAMES, SUFFIXES

IGNORED_FOLDERS = frozenset(
    {"node_modules", "bower_components", "__pycache__", "venv", "site-packages", "$RECYCLE.BIN"}
)
"""Folders that hold what others wrote or what can be built again; hidden folders (.git, .venv) are ignored besides."""
_IGNORED_STARTS = (".", "~$")


def walk(paths: Iterable[Path], skipped: Counter[str] | None = None) -> Iterator[Path]:
    """The document files at and below `paths`, each once, folder by folder in the order of their names.

    A file that is named itself always comes, whatever its suffix: parsing will say what is wrong with it. Below a
    folder only the supported suffixes come. Links are followed, but no folder is entered twice.

    Args:
        skipped: counts what was left out, by suffix ('.png') or by reason ('hidden', 'ignored folder', ...).

    Raises:
        NotFoundError: a path of `paths` does not exist.
    """
    left_out = Counter[str]() if skipped is None else skipped
    seen_files: set[tuple[int, int]] = set()
    seen_folders: set[tuple[int, int]] = set()
    for path in paths:
        if not path.exists():
            siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise NotFoundError(f"{path}: no such file or folder{did_you_mean(path.name, siblings)}")
        found = _below(path, seen_folders, left_out) if path.is_dir() else iter([path])
        for file in found:
            key = _identity(file)
            if key not in seen_files:
                seen_files.add(key)
                yield file


def is_document(path: Path) -> bool:
    """Whether `walk` would take this file below a folder, by its name alone; for watching a folder."""
    return not path.name.startswith(_IGNORED_STARTS) and (
        path.suffix.lower() in SUFFIXES or (not path.suffix and path.name.lower() in NAMES)
    )


def is_ignored(folder_name: str) -> bool:
    """Whether `walk` stays out of a folder of this name."""
    return folder_name.startswith(".") or folder_name in IGNORED_FOLDERS


def _below(root: Path, seen: set[tuple[int, int]], skipped: Counter[str]) -> Iterator[Path]:
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            key = _identity(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            skipped["unreadable folder"] += 1
            continue
        if key in seen:
            continue
        seen.add(key)
        folders = []
        for entry in entries:
            path = folder / entry.name
            if _is_folder(entry):
                if is_ignored(entry.name):
                    skipped["ignored folder"] += 1
                else:
                    folders.append(path)
            elif not is_document(path):
                hidden = entry.name.startswith(_IGNORED_STARTS)
                skipped["hidden" if hidden else path.suffix.lower() or "no suffix"] += 1
            elif path.is_file():
                yield path
            else:
                skipped["broken link or no ordinary file"] += 1
        pending += reversed(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
