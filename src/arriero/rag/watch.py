"""Keeping a collection up to date with its sources while they change.

The system's own notices (inotify, FSEvents) say that something changed, `Collection.update` finds out what: it compares
contents, so a notice too many costs a look at some bytes and a lost one is made good by the next. Notices of one save
or one copy come in bursts, and are gathered first.
"""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from arriero.common.errors import ArrieroError, NotFoundError, require
from arriero.rag.collection import Collection
from arriero.rag.folders import is_document, is_ignored
from arriero.rag.ingest import IngestReport

_DEBOUNCE_MS = 1600
_STEP_MS = 100
_QUIET_MS = 1000
"""Without a notice, after which it is clear that the system gives them."""


def watch(
    collection: Collection,
    report: Callable[[IngestReport], None],
    *,
    stop: threading.Event | None = None,
    debounce_ms: int = _DEBOUNCE_MS,
    failed: Callable[[ArrieroError], None] | None = None,
) -> None:
    """Update a collection whenever its sources change, until `stop` is set or Ctrl-C is pressed.

    Args:
        collection: with sources, as `Collection.add` notes them.
        report: told what each update did, the first one at once.
        stop: ends the watch; what is being stored is finished first.
        debounce_ms: how long notices are gathered at most before an update.
        failed: told when an update fails (another writer, a full disk); the next notice tries again. Without it, the
            error ends the watch.

    Raises:
        NotFoundError: the collection has no source that exists.
    """
    watchfiles = require("watchfiles", extra="rag", purpose="watching folders")
    ended = threading.Event() if stop is None else stop
    watched = _watched(collection.sources())
    if not watched:
        raise NotFoundError(f"no source of the collection in {collection.folder} exists: `arriero rag add` names one")
    collection_folder = collection.folder.resolve()

    def concerns_us(_change: object, path: str) -> bool:
        return _may_matter(Path(path), watched, collection_folder)

    def report_changes(done: IngestReport) -> None:
        if done.added or done.updated or done.removed or done.failed:
            report(done)

    try:
        _update(collection, report, failed)
        caught_up = False  # with what changed after the update began and before the system's notices did
        for notices in watchfiles.watch(
            *watched,
            watch_filter=concerns_us,
            debounce=debounce_ms,
            step=_STEP_MS,
            rust_timeout=_QUIET_MS,
            yield_on_timeout=True,
            stop_event=ended,
            raise_interrupt=True,
        ):
            if notices:
                _update(collection, report, failed)
            elif not caught_up:
                _update(collection, report_changes, failed)
            caught_up = True
    except KeyboardInterrupt:
        return


def _update(
    collection: Collection, report: Callable[[IngestReport], None], failed: Callable[[ArrieroError], None] | None
) -> None:
    try:
        report(collection.update())
    except ArrieroError as error:
        if failed is None:
            raise
        failed(error)


def _watched(sources: dict[Path, str]) -> list[Path]:
    """A folder itself; for a file its folder, for an editor that saves by renaming puts another file in its place."""
    places: Iterable[Path] = (path if kind == "folder" else path.parent for path, kind in sources.items())
    return sorted({place.resolve() for place in places if place.is_dir()})


def _may_matter(path: Path, watched: Iterable[Path], collection_folder: Path) -> bool:
    """Whether a notice is about a document, and neither about the collection's own files nor about hidden ones."""
    if path.is_relative_to(collection_folder):
        return False
    for root in watched:
        if path.is_relative_to(root):
            parts = path.relative_to(root).parts
            if not any(is_ignored(part) for part in parts):
                # A folder that comes or goes takes its documents along, and has no suffix to know it by.
                return is_document(path) or not path.suffix or path.is_dir()
    return False
