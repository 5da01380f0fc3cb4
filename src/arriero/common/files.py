"""Files that are whole or absent: written aside, flushed to disk, then renamed over their final name."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arriero.common.errors import ArrieroError


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on a clean exit it becomes `target`, on an error it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        _flush(aside)
        aside.chmod(0o666 & ~_umask())  # mkstemp makes 0600; the final file gets what open() would give
        aside.replace(target)
        _flush(target.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Like `atomic_file` for a folder that does not exist yet (or is empty).

    Raises:
        FileExistsError: `target` exists and is not an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield aside
        for path in aside.rglob("*"):
            _flush(path)
        aside.chmod(0o777 & ~_umask())
        aside.replace(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where downloaded models live: `$ARRIERO_CACHE`, else `$XDG_CACHE_HOME/arriero`, else `~/.cache/arriero`.

    Raises:
        ArrieroError: it lies in the home of a user who has none.
    """
    explicit = os.environ.get("ARRIERO_CACHE")
    folder = Path(explicit) if explicit else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "arriero"
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise ArrieroError(f"{folder}: no home folder is known: set ARRIERO_CACHE to a folder for models") from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
