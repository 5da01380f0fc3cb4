"""Files into the store: hash, parse, cut, encode, and replace each document in one transaction.

What is unchanged (same bytes, same way of cutting) is not even parsed. Documents are encoded and stored in groups; a
group is one transaction, so that an interruption at any moment loses the group at hand and nothing else, and the next
run takes up where this one ended. A file that cannot be read is reported with its reason and skipped; an earlier
version of it stays.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from arriero.common.errors import ArrieroError
from arriero.common.files import sha256
from arriero.parsers.document import Document
from arriero.parsers.isolation import ParserProcess
from arriero.rag.chunk import ChunkConfig, split
from arriero.rag.contracts import TextEncoder, Vectors
from arriero.rag.passage import Passage
from arriero.rag.sources import SourceFile, pick_name
from arriero.rag.store import DocumentInfo, DocumentRow, Store

GROUP_PASSAGES = 256
"""Passages that are encoded and stored together: some seconds of work on two cores."""


@dataclass(frozen=True, kw_only=True)
class IngestProgress:
    """How far an ingest is."""

    files_done: int
    files_total: int
    passages_done: int
    """Encoded and reused so far."""
    passages_found: int
    """Cut so far; it grows until the last file is parsed."""
    share: float
    """Share of the work that is done, 0 to 1, by the files' sizes; it never falls."""
    current: str
    """The file at hand."""


ProgressCallback = Callable[[IngestProgress], None]


@dataclass(kw_only=True)
class IngestReport:
    """What an ingest did, by document name."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    """File and reason, in one line."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Files and folders that no parser reads, by suffix or kind."""
    passages: int = 0
    """Passages stored."""
    encoded: int = 0
    """Passages encoded: those of a changed document whose text stayed the same keep their vectors."""


@dataclass
class _Pending:
    row: DocumentRow
    passages: Sequence[Passage]
    size: int
    is_new: bool


class Ingest:
    """One run over some files; the caller holds the collection's lock."""

    def __init__(
        self,
        store: Store,
        encoder: Callable[[], TextEncoder],
        chunk: ChunkConfig,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.report = IngestReport()
        self._store = store
        self._encoder = encoder
        self._chunk = chunk
        self._chunking = describe_chunking(chunk)
        self._progress = progress
        documents = store.documents()
        self._by_location = {info.location: info for info in documents if info.location is not None}
        self._by_name = {info.name: info for info in documents}
        self._parser = ParserProcess()  # a child: a hostile file may hang or crash it, and not the ingest
        self._pending: list[_Pending] = []
        self._files_done = self._files_total = self._passages_done = self._passages_found = 0
        self._bytes_done = self._bytes_total = 0.0

    def run_files(self, files: Sequence[tuple[SourceFile, Mapping[str, str]]]) -> None:
        """Bring the store up to date with these files; each comes with the metadata that the user gave."""
        sizes = [_size(file.path) for file, _ in files]
        self._files_total, self._bytes_total = len(files), float(sum(sizes))
        with self._parser:
            for (file, given), size in zip(files, sizes, strict=True):
                with self._reporting(file.name, str(file.path), size, kept=file.location in self._by_location):
                    self._take_file(file, given, size)
        self._flush()
        self._tell("")

    def run_documents(self, documents: Iterable[Document]) -> None:
        """The same for texts that are no files; they are known by name alone."""
        listed = list(documents)
        self._files_total, self._bytes_total = len(listed), float(sum(len(document.text) for document in listed))
        for document in listed:
            with self._reporting(document.name, document.name, len(document.text), kept=document.name in self._by_name):
                self._take_text(document)
        self._flush()
        self._tell("")

    @contextmanager
    def _reporting(self, name: str, path: str, size: int, *, kept: bool) -> Iterator[None]:
        """Report what goes wrong with one document, and go on to the next."""
        self._tell(name)
        try:
            yield
        except (ArrieroError, OSError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            self.report.failed.append(
                (path, " ".join(reason.split()) + ("; its earlier version stays" if kept else ""))
            )
            self._finish(size)
        if sum(len(pending.passages) for pending in self._pending) >= GROUP_PASSAGES:
            self._flush(name)

    def _take_text(self, document: Document) -> None:
        content = json.dumps([[asdict(section) for section in document.sections], document.metadata], sort_keys=True)
        content_hash = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        known = self._by_name.get(document.name)
        if known is _TAKEN:
            raise ArrieroError("another document of that name came before it")
        if known is not None and known.location is not None:
            raise ArrieroError("a file of that name is in the collection already")
        if known is not None and (known.content_hash, known.chunking) == (content_hash, self._chunking):
            self.report.unchanged.append(document.name)
            self._finish(len(document.text))
        else:
            self._take_document(document, None, content_hash, {}, len(document.text), is_new=known is None)
        self._by_name[document.name] = _TAKEN

    def _take_file(self, file: SourceFile, given: Mapping[str, str], size: int) -> None:
        # Hashed before it is parsed: if the file changes in between, the next run sees another hash and reads it again.
        content_hash = sha256(file.path)
        known = self._by_location.get(file.location)
        if known is not None and (known.content_hash, known.chunking) == (content_hash, self._chunking):
            if given.items() - known.metadata.items():
                self._store.set_given(known.name, given)
            self.report.unchanged.append(known.name)
            self._finish(size)
            return
        name = pick_name(file, self._by_name) if known is None else known.name
        document = self._parser.parse(file.path)
        self._by_name.setdefault(name, _TAKEN)
        self._take_document(
            replace(document, name=name), file.location, content_hash, given, size, is_new=known is None
        )

    def _take_document(
        self,
        document: Document,
        location: bytes | None,
        content_hash: str,
        given: Mapping[str, str],
        size: int,
        *,
        is_new: bool,
    ) -> None:
        passages = split(document, self._chunk)
        if not passages:
            raise ArrieroError("no text in it")
        row = DocumentRow(
            name=document.name,
            location=location,
            content_hash=content_hash,
            chunking=self._chunking,
            characters=len(document.text),
            metadata=document.metadata,
            given=given,
        )
        self._pending.append(_Pending(row, passages, size, is_new))
        self._passages_found += len(passages)

    def _flush(self, current: str = "") -> None:
        """Encode what is pending and store it, in one transaction."""
        group, self._pending = self._pending, []
        if not group:
            return
        known = [{} if pending.is_new else self._store.known_vectors(pending.row.name) for pending in group]
        fresh = [
            passage.text
            for pending, reusable in zip(group, known, strict=True)
            for passage in pending.passages
            if passage.text not in reusable
        ]
        self._passages_done += sum(len(pending.passages) for pending in group) - len(fresh)
        before, size = self._bytes_done, sum(pending.size for pending in group)

        def advance(count: int) -> None:
            self._passages_done += count
            self._bytes_done += size * count / len(fresh)
            self._tell(current)

        encoded = iter(self._encoder().encode_passages(fresh, advance) if fresh else ())
        with self._store.write():
            for pending, reusable in zip(group, known, strict=True):
                vectors = [
                    reusable[passage.text] if passage.text in reusable else next(encoded)
                    for passage in pending.passages
                ]
                self._store.replace(pending.row, pending.passages, _stack(vectors))
        self._bytes_done = before + size
        self._files_done += len(group)
        self.report.encoded += len(fresh)
        self.report.passages += sum(len(pending.passages) for pending in group)
        for pending in group:
            (self.report.added if pending.is_new else self.report.updated).append(pending.row.name)

    def _finish(self, size: int) -> None:
        self._files_done += 1
        self._bytes_done += size

    def _tell(self, current: str) -> None:
        if self._progress is not None:
            self._progress(
                IngestProgress(
                    files_done=self._files_done,
                    files_total=self._files_total,
                    passages_done=self._passages_done,
                    passages_found=self._passages_found,
                    share=min(1.0, self._bytes_done / self._bytes_total) if self._bytes_total else 1.0,
                    current=current,
                )
            )


_TAKEN = DocumentInfo(
    name="", location=None, content_hash="", chunking="", characters=0, passages=0, pages=None, added="", metadata={}
)
"""Stands for a name that a document of this run has."""


def describe_chunking(config: ChunkConfig) -> str:
    """The way of cutting as it is stored: another way makes every document another one."""
    return json.dumps(asdict(config), sort_keys=True)


def read_chunking(described: str) -> ChunkConfig:
    """The way of cutting that was stored."""
    return ChunkConfig(**json.loads(described))


def _stack(vectors: Sequence[Vectors]) -> Vectors:
    return np.stack(vectors).astype(np.float32, copy=False)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
