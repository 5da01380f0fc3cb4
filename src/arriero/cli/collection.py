"""The options of every command on a collection, and how its reports are shown."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arriero.cli.output import note, print_json, printable, warn
from arriero.rag.ingest_bar import ingest_bar as ingest_bar

if TYPE_CHECKING:
    from arriero.rag.chunk import ChunkConfig
    from arriero.rag.collection import Collection
    from arriero.rag.ingest import IngestReport

DEFAULT_FOLDER = Path(".arriero/documents")
"""Where a collection lies unless said otherwise: below the folder that one works in, like a version control's."""


@dataclass(frozen=True, kw_only=True)
class CollectionConfig:
    """Which collection."""

    collection: Path = DEFAULT_FOLDER
    """Folder of the collection; `rag add` makes it."""
    encoder: str | None = None
    """Encoder: a name or a folder; default: the collection's own, and all-minilm-l6-v2 for a new one."""
    query_encoder: Path | None = None
    """Folder of a query encoder that was trained for this collection's passages (`rag retriever`, `rag train`)."""
    device: str = "auto"
    """auto takes the first of cuda, mps, cpu."""
    json: bool = False
    """Print JSON for scripts; messages go to the error stream."""


def open_collection(config: CollectionConfig, *, chunk: "ChunkConfig | None" = None, new: bool = False) -> "Collection":
    """The collection of a command.

    Raises:
        NotFoundError: it does not exist, unless the command makes a new one.
    """
    from arriero.common.errors import NotFoundError
    from arriero.rag.collection import Collection

    collection = Collection.open(
        config.collection, config.encoder, chunk=chunk, device=config.device, query_encoder=config.query_encoder
    )
    if not new and not collection.exists:
        here = "" if config.collection == DEFAULT_FOLDER else f" --collection {config.collection}"
        raise NotFoundError(f"no collection in {config.collection}: `arriero rag add PATH{here}` makes one")
    return collection


def show_report(report: "IngestReport", *, json: bool) -> int:
    """Tell what an ingest did; returns the exit code, 1 when files failed."""
    if json:
        print_json(dataclasses.asdict(report) | {"failed": [{"file": f, "reason": r} for f, r in report.failed]})
        sys.stdout.flush()
    else:
        counts = {
            "added": report.added,
            "updated": report.updated,
            "removed": report.removed,
            "unchanged": report.unchanged,
        }
        said = ", ".join(f"{len(names)} {what}" for what, names in counts.items() if names)
        print(f"{said or 'nothing changed'}; {report.encoded} of {report.passages} passages encoded")
        sys.stdout.flush()
    for file, reason in report.failed:
        warn(f"skipped {printable(file)}: {printable(reason)}")
    if report.failed:
        note(f"{len(report.failed)} skipped; everything else is in the collection")
    return 1 if report.failed else 0
