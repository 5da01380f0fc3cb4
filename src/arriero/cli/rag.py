"""`arriero rag add|update|remove|list|search|watch`: the documents of a collection."""

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from arriero.cli.collection import CollectionConfig, ingest_bar, open_collection, show_report
from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable, read_text, warn
from arriero.common.errors import ArrieroError

if TYPE_CHECKING:
    from arriero.rag.chunk import ChunkConfig
    from arriero.rag.ingest import IngestReport
    from arriero.rag.search import Hit


@dataclass(frozen=True, kw_only=True)
class AddConfig(CollectionConfig):
    """What to take in."""

    paths: tuple[Path, ...] = positional("PATH")
    """Files, and folders with all that is in them."""
    meta: dict[str, str] | None = None
    """What to note with each document, for --filter."""
    chunk: Literal["words", "sentences"] | None = None
    """Cut texts into passages of so many words, or of whole sentences up to so many; default: as the collection does,
    and sentences for a new one."""
    words: int | None = None
    """Words of a passage; default: as the collection does, and 100 for a new one."""
    overlap: int | None = None
    """Words that a passage repeats of the one before; default: as the collection does, and 0 for a new one."""


def add(config: AddConfig) -> int:
    """Take files and folders into a collection, and remember them for `update` and `watch`.

    PDF, HTML, Word, PowerPoint, Excel, Markdown, notebooks, code and plain text are read. What is already there and
    unchanged costs nothing; a file that cannot be read is named and skipped, and the exit code is then 1.

    Examples:
      arriero rag add ~/notes report.pdf
      arriero rag add manuals --meta product=mule --collection manuals.arriero
    """
    with open_collection(config, chunk=_chunking(config), new=True) as collection:
        with ingest_bar("Reading") as tell:
            report = collection.add(config.paths, tell, metadata=config.meta)
        if not (report.added or report.updated or report.unchanged or report.failed):
            from arriero.parsers.parse import SUFFIXES

            kinds = ", ".join(sorted(SUFFIXES)[:12])
            raise ArrieroError(
                f"nothing to read in {', '.join(map(str, config.paths))}: no file of a kind like {kinds}"
            )
        return show_report(report, json=config.json)


def _chunking(config: AddConfig) -> "ChunkConfig | None":
    """How texts are cut where the command line says so; the rest as the collection does."""
    from dataclasses import replace

    if config.chunk is None and config.words is None and config.overlap is None:
        return None
    with open_collection(config, new=True) as collection:
        now = collection.chunk
    return replace(
        now,
        kind=config.chunk or now.kind,
        words=now.words if config.words is None else config.words,
        overlap=now.overlap if config.overlap is None else config.overlap,
    )


def update(config: CollectionConfig) -> int:
    """Look again at all files and folders that were added: take in what is new or changed, remove what is gone."""
    with open_collection(config) as collection:
        with ingest_bar("Reading") as tell:
            report = collection.update(tell)
        return show_report(report, json=config.json)


@dataclass(frozen=True, kw_only=True)
class RemoveConfig(CollectionConfig):
    """What to take out."""

    names: tuple[str, ...] = positional("DOCUMENT")
    """Documents by name or path, or folders."""


def remove(config: RemoveConfig) -> int:
    """Take documents out of a collection; the files stay, and `update` does not bring them back."""
    with open_collection(config) as collection:
        removed = collection.remove(config.names)
    if config.json:
        print_json({"removed": removed})
    else:
        print(f"{len(removed)} removed")
    return 0


def list_documents(config: CollectionConfig) -> int:
    """List the documents of a collection."""
    with open_collection(config) as collection:
        documents = collection.list()
    if config.json:
        plain = [asdict(info) for info in documents]
        for item in plain:
            item["location"] = None if item["location"] is None else os.fsdecode(item["location"])
        print_json(plain)
        return 0
    table = Table(box=None, pad_edge=False)
    table.add_column("document", overflow="fold")
    for column in ("passages", "characters"):
        table.add_column(column, justify="right")
    table.add_column("added")
    table.add_column("notes", overflow="fold")
    for info in documents:
        notes = ", ".join(f"{key}={value}" for key, value in info.metadata.items())
        cells = (info.name, str(info.passages), f"{info.characters:,}", info.added[:16].replace("T", " "), notes)
        table.add_row(*map(printable, cells))
    console().print(table, markup=False) if documents else note("the collection holds no documents")
    return 0


@dataclass(frozen=True, kw_only=True)
class SearchConfig(CollectionConfig):
    """What to look for."""

    query: str | None = positional("QUERY", default=None)
    """What to look for; without it, or as `-`, it is read from standard input."""
    k: int = 5
    """How many passages."""
    mode: Literal["hybrid", "dense", "bm25"] = "hybrid"
    """dense (meaning), bm25 (words), or hybrid (both, fused by rank)."""
    filter: dict[str, str] | None = None
    """Only documents with this metadata; `document=NAME` is one document."""


def search(config: SearchConfig) -> int:
    """Find the passages nearest to a question or to some words."""
    query = read_text(config.query)
    with open_collection(config) as collection:
        hits = collection.search(query, k=config.k, mode=config.mode, filters=config.filter)
    if config.json:
        print_json([plain_hit(hit) for hit in hits])
    for number, hit in enumerate([] if config.json else hits, 1):
        console().print(f"[{number}] {printable(hit.passage.place)}  ({hit.score:.3f})", style="bold", markup=False)
        console().print(printable(hit.passage.text), "", sep="\n", markup=False)
    if not hits:
        note("nothing found")
    return 0


def watch(config: CollectionConfig) -> int:
    """Keep a collection equal to the files and folders that were added, until Ctrl-C."""
    from arriero.rag.watch import watch as watch_sources

    def tell(report: "IngestReport") -> None:
        if config.json or report.added or report.updated or report.removed or report.failed:
            show_report(report, json=config.json)

    def tell_failure(error: ArrieroError) -> None:
        warn(f"{error}; trying again at the next change")

    with open_collection(config) as collection:
        for path, kind in collection.sources().items():
            note(f"watching {kind} {printable(str(path))}")
        note("Ctrl-C ends")
        sys.stderr.flush()
        watch_sources(collection, tell, failed=tell_failure)
    return 0


def plain_hit(hit: "Hit") -> dict[str, object]:
    """A hit's JSON form."""
    return asdict(hit.passage) | {
        "passage_id": hit.passage_id,
        "score": hit.score,
        "dense": hit.dense,
        "bm25": hit.bm25,
        "metadata": hit.metadata,
    }
