"""The files of a source: found in a fixed order, and pinned, so that what a run began with is what it ends with."""

import glob
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.common.files import atomic_file

GROUP_INPUTS = 10_000
"""Most inputs of a group."""


@dataclass(frozen=True)
class Input:
    """A file, or a folder that is read as one."""

    name: str
    """What ids begin with: the path below the folder that was named."""
    path: Path
    bytes: int


def find_inputs(paths: Iterable[Path], *, whole_folders: bool) -> tuple[Input, ...]:
    """The inputs that paths (files, folders, patterns with `*`) name, each once, sorted by name.

    Args:
        paths: what was asked for; a folder means all files below it, hidden ones left out.
        whole_folders: a folder is one input (a repository, a paper); of a folder of folders, each is.

    Raises:
        NotFoundError: a path does not exist, or there is no file.
        ArrieroError: two inputs would have the same name, or one has a name that is no text.
    """
    found: dict[Path, str] = {}
    for path in paths:
        matches = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - ** and *
        if not matches:
            raise NotFoundError(f"no such file or folder: {path}")
        for match in matches:
            for inner in _expand(match, whole_folders=whole_folders):
                name = inner.relative_to(match).as_posix() if inner != match else match.name
                found.setdefault(inner, name)
    if not found:
        raise NotFoundError(f"nothing to read in {', '.join(map(str, paths))}")
    names: dict[str, Path] = {}
    for path, name in found.items():
        if name != name.encode("utf-8", "replace").decode():
            raise ArrieroError(f"a file's name is no UTF-8 text: {name!r}: rename it")
        if (other := names.setdefault(name, path)) != path:
            raise ArrieroError(f"{other} and {path} would both be called '{name}': name the folder above them instead")
    return tuple(Input(name, path, _size(path)) for path, name in sorted(found.items(), key=lambda item: item[1]))


def _expand(path: Path, *, whole_folders: bool) -> list[Path]:
    if path.is_file():
        return [path]
    if whole_folders:
        inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        folders_only = inside and all(entry.is_dir() or entry.suffix in _ARCHIVES for entry in inside)
        return inside if folders_only else [path]
    inside = sorted(path.rglob("*"))
    return [e for e in inside if e.is_file() and not any(p.startswith(".") for p in e.relative_to(path).parts)]


_ARCHIVES = (".tar", ".gz", ".tgz", ".zst", ".jsonl", ".bz2", ".xz")


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


def group(inputs: Sequence[Input], most_bytes: int) -> list[list[Input]]:
    """Neighbouring inputs, so many that a task is worth its start: one, or several of so many bytes together."""
    groups: list[list[Input]] = []
    size = 0
    for entry in inputs:
        if not groups or size + entry.bytes > most_bytes or len(groups[-1]) >= GROUP_INPUTS:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.bytes
    return groups


def save_inputs(path: Path, inputs: Sequence[Input]) -> None:
    """Pin the inputs."""
    with atomic_file(path) as aside:
        rows = [{"name": entry.name, "path": str(entry.path), "bytes": entry.bytes} for entry in inputs]
        aside.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def check_inputs(path: Path, inputs: Sequence[Input]) -> None:
    """See that the inputs are those that `save_inputs` pinned.

    Raises:
        ArrieroError: one came, went, or has another size.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))
    pinned = {row["name"]: row["bytes"] for row in rows}
    now = {entry.name: entry.bytes for entry in inputs}
    if changed := sorted(name for name in pinned.keys() | now.keys() if pinned.get(name) != now.get(name)):
        what = "is gone" if changed[0] not in now else "is new" if changed[0] not in pinned else "has another size"
        more = f" (and {len(changed) - 1} more differ)" if len(changed) > 1 else ""
        raise ArrieroError(
            f"the run in {path.parent} was begun with other files: '{changed[0]}' {what}{more}: "
            "bring them back, or choose another folder"
        )
