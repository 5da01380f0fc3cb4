"""Received files into a collection: moved to its folder `files/`, taken in from there, put back where that fails.

An upload has a folder `files/.incoming/ID` with what is still to be done of it: the files as `0`, `1`, …, an earlier
file of the same name as `0.old`, and `job.json` with the names. Whatever moment a server stops or dies at, the next one
finds each file in one of the two places and does the rest; what was taken in already is unchanged then.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.common.files import atomic_file, sha256
from arriero.rag.collection import Collection
from arriero.rag.ingest import IngestProgress, IngestReport
from arriero.rag.sources import KEPT, locate
from arriero.serve.service import ServedCollection
from arriero.serve.uploads import safe_name

INCOMING = f"{KEPT}/.incoming"
"""In a collection's folder; its name is hidden from all that looks for documents."""
FileState = Literal["waiting", "added", "unchanged", "failed"]

_MANIFEST = "job.json"
_WAIT_S = 600.0
"""For another program that writes to the collection."""


class StoppedError(Exception):
    """The server stops, or the collection goes."""


@dataclass(kw_only=True)
class IncomingFile:
    """One file of an upload."""

    name: str
    path: Path
    """Where it was received."""
    size: int
    state: FileState = "waiting"
    error: str | None = None
    share: float = 0.0
    """Of the work that is done."""

    @property
    def earlier(self) -> Path:
        """Where an earlier file of its name waits."""
        return self.path.with_name(f"{self.path.name}.old")

    def end(self, state: FileState, error: str | None = None) -> None:
        """Nothing more will be done."""
        self.state, self.error, self.share = state, error, 1.0


def take_in(collection: ServedCollection, files: Sequence[IncomingFile], check: Callable[[], None]) -> None:
    """Bring a collection up to date with some files of different names; each ends as added, unchanged or failed.

    Args:
        check: called between the steps of the work; what it raises ends it, and all files stay to be taken in again.
    """

    def tell(progress: IngestProgress) -> None:
        check()
        for file in files:
            file.share = progress.share

    kept = kept_folder(collection)
    try:
        if not collection.collection.exists:
            raise NotFoundError("the collection was deleted")
        with (
            collection.lock,
            Collection.open(collection.folder, collection.collection.encoder, wait_s=_WAIT_S) as writer,
        ):
            placed = [file for file in files if _place(file, kept)]
            try:
                report = writer.add([kept / file.name for file in placed], tell)
            except StoppedError:
                raise
            except BaseException:
                _keep_stored(placed, kept, writer)
                raise
            documents = {info.location: info.name for info in writer.list()}
            for file in placed:
                document = documents.get(locate(kept / file.name, writer.folder))
                _settle(file, kept / file.name, document, writer, report)
    except ArrieroError as error:
        for file in files:
            if file.state == "waiting":
                file.end("failed", collection.without_folder(str(error)))


def kept_folder(collection: ServedCollection) -> Path:
    """Where a collection keeps uploaded files."""
    return collection.folder.absolute() / KEPT


def write_manifest(folder: Path, files: Sequence[IncomingFile]) -> None:
    """Note what is still to be done; where nothing is, the upload's folder goes."""
    waiting = [file for file in files if file.state == "waiting"]
    if not waiting:
        shutil.rmtree(folder, ignore_errors=True)
        return
    rows = [{"name": file.name, "received": file.path.name, "size": file.size} for file in waiting]
    with atomic_file(folder / _MANIFEST) as aside:
        aside.write_text(json.dumps(rows), encoding="utf-8")


def read_manifest(folder: Path) -> list[IncomingFile]:
    """What is still to be done; nothing, if the upload had not arrived whole."""
    try:
        rows = json.loads((folder / _MANIFEST).read_bytes())
        files = [IncomingFile(name=row["name"], path=folder / row["received"], size=row["size"]) for row in rows]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [file for file in files if file.name == safe_name(file.name) and file.path.name.isdecimal()]


def _place(file: IncomingFile, kept: Path) -> bool:
    """Move it to where it stays; False if that cannot be."""
    target = kept / file.name
    try:
        if target.is_dir() and not target.is_symlink():
            raise ArrieroError("there is a folder of that name")
        if file.path.is_file():
            if os.path.lexists(target):
                target.replace(file.earlier)
            file.path.replace(target)
        elif not target.is_file():
            raise ArrieroError("what was received of it is gone: send it again")
    except (ArrieroError, OSError) as error:
        file.end("failed", str(error.strerror if isinstance(error, OSError) else error))
        return False
    return True


def _keep_stored(files: Sequence[IncomingFile], kept: Path, writer: Collection) -> None:
    """After an error: what the collection has of the files stays; of the rest, what was there before comes back."""
    try:
        stored = {info.location: info.content_hash for info in writer.list()}
    except ArrieroError:
        stored = {}
    for file in files:
        target = kept / file.name
        if stored.get(locate(target, writer.folder)) == sha256(target):
            file.earlier.unlink(missing_ok=True)
            file.end("added")
        else:
            _put_back(file, kept)


def _put_back(file: IncomingFile, kept: Path) -> None:
    """The earlier file of its name again, or none."""
    if file.earlier.is_file():
        file.earlier.replace(kept / file.name)
    else:
        (kept / file.name).unlink(missing_ok=True)


def _settle(file: IncomingFile, target: Path, document: str | None, writer: Collection, report: IngestReport) -> None:
    """See what became of a file; `document` is what it is called in the collection, if it is there."""
    reason = dict(report.failed).get(str(target))
    if reason is None:
        file.earlier.unlink(missing_ok=True)
        file.end("unchanged" if document in report.unchanged else "added")
        return
    _put_back(file, target.parent)
    if document is None:
        with suppress(NotFoundError):  # so that an update does not look for it
            writer.remove(target)
    file.end("failed", reason)
