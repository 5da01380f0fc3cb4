"""A collection: a folder with the store and its index, and all that the commands do with it.

The folder can be moved and copied: it holds no absolute path. It is made by the first `add`; everything else asks for
one that exists. Reading goes on while another process writes; there is one writer at a time.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from arriero.common.errors import ArrieroError, NotFoundError, did_you_mean
from arriero.common.lock import hold_lock
from arriero.parsers.document import Document
from arriero.rag.answer_config import Mode
from arriero.rag.chunk import ChunkConfig
from arriero.rag.contracts import Advance, TextEncoder, Vectors
from arriero.rag.encoder_binding import bind_encoder, encoder_settings
from arriero.rag.ingest import Ingest, IngestReport, ProgressCallback, describe_chunking, read_chunking
from arriero.rag.live_index import TOKENS, IndexFacts, LiveIndex
from arriero.rag.qdrant_index import check_url
from arriero.rag.search import Hit, check_request, find
from arriero.rag.server_index import SERVER, ServerIndex, move_index, open_index
from arriero.rag.sources import SourceFile, is_under, locate, look_over, place, same_name, source_files
from arriero.rag.store import FILE_NAME, DocumentInfo, Store

INDEX_NAME = "index.faiss"
Documents = list[DocumentInfo]  # `list` is a method below, where the type could not be named
Names = list[str]
Hits = list[Hit]
_LOCK_NAME = "writer.lock"
_WAIT_S = 30.0


class Collection:
    """Documents to search. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        folder: Path,
        encoder: TextEncoder | str | Path | None = None,
        *,
        chunk: ChunkConfig | None = None,
        device: str = "auto",
        wait_s: float = _WAIT_S,
        query_encoder: Path | None = None,
    ) -> None:
        self.folder = folder
        self._asked_encoder = encoder
        self._asked_chunk = chunk
        self._device = device
        self._wait_s = wait_s
        self._query_encoder = query_encoder
        self._encoder: TextEncoder | None = None
        self._store: Store | None = None
        self._index: LiveIndex | ServerIndex | None = None
        self._indexed: tuple[str | None, str | None] = (None, None)
        """Fingerprint of the encoder of the index's vectors, and the server that has them."""

    @classmethod
    def open(
        cls,
        folder: str | Path,
        encoder: TextEncoder | str | Path | None = None,
        *,
        chunk: ChunkConfig | None = None,
        device: str = "auto",
        wait_s: float = _WAIT_S,
        query_encoder: Path | None = None,
    ) -> "Collection":
        """Open a collection; nothing is made or loaded before it is needed.

        Args:
            folder: where it lies, or will lie after the first `add`.
            encoder: an encoder, its folder or its name; by default the one that the collection was made with.
            chunk: how texts are cut; by default as the collection was made. Another way re-cuts documents as they are
                added or updated.
            device: where the encoder runs.
            wait_s: how long to wait for another writer.
            query_encoder: folder of a query side that was trained for the passages of this encoder.
        """
        return cls(Path(folder), encoder, chunk=chunk, device=device, wait_s=wait_s, query_encoder=query_encoder)

    def __enter__(self) -> "Collection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
        self._store = self._index = None

    @property
    def exists(self) -> bool:
        """Whether anything was ever added here."""
        return (self.folder / FILE_NAME).is_file()

    @property
    def store(self) -> Store:
        """The open store.

        Raises:
            NotFoundError: there is no collection in the folder.
        """
        if self._store is None:
            self._store = Store(self.folder / FILE_NAME)
        return self._store

    @property
    def encoder(self) -> TextEncoder:
        """The encoder, checked against the one that the stored vectors come from: another process may encode them anew.

        Raises:
            ArrieroError: another encoder than the collection was made with.
        """
        store = self.store if self.exists else None
        known = None if store is None else store.setting("encoder_fingerprint")
        if self._encoder is None or (store is not None and known != self._encoder.fingerprint):
            self._encoder = bind_encoder(store, self.folder, self._asked_encoder, self._device, self._query_encoder)
        return self._encoder

    @property
    def chunk(self) -> ChunkConfig:
        """How texts are cut."""
        if self._asked_chunk is not None:
            return self._asked_chunk
        stored = self.store.setting("chunk") if self.exists else None
        return read_chunking(stored) if stored else ChunkConfig()

    def add(
        self,
        paths: str | Path | Iterable[str | Path],
        progress: ProgressCallback | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> IngestReport:
        """Take in files and folders, and remember them for `update`; what is unchanged costs one look at its bytes.

        Args:
            paths: files, and folders whose files have a suffix that is read (`arriero.parsers.parse.SUFFIXES`).
            progress: told how far it is.
            metadata: what to note with each document, for filters.

        Raises:
            NotFoundError: a path does not exist; nothing is added then.
        """
        listed = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        for path in listed:
            if not path.exists():
                near = did_you_mean(path.name, _names_beside(path))
                raise NotFoundError(f"{path} does not exist{near}")
        given = dict(metadata or {})
        with self._writing(create=True):
            with self.store.write():
                for path in listed:
                    self._remember(path, given)
            skipped = Counter[str]()
            found = (file for path in listed for file in source_files(path, self.folder, skipped))
            report = self._ingest([*{file.location: (file, given) for file in found}.values()], progress)
            report.skipped.update(skipped)
            return report

    def add_documents(self, documents: Iterable[Document], progress: ProgressCallback | None = None) -> IngestReport:
        """Take in texts that are no files; one of a known name replaces the earlier one."""
        with self._writing(create=True):
            ingest = Ingest(self.store, lambda: self.encoder, self.chunk, progress)
            ingest.run_documents(documents)
            self._save_index()
            return ingest.report

    def update(self, progress: ProgressCallback | None = None) -> IngestReport:
        """Look at everything that was added: take in what is new or changed, remove what has vanished.

        A source that cannot be found at all is reported and its documents stay: the disk may not be mounted.
        """
        with self._writing():
            survey = look_over(self.store.sources(), self.folder)
            vanished = [
                info.name
                for info in self.store.documents()
                if info.location is not None
                and info.location not in survey.files
                and not any(is_under(info.location, source) for source in survey.unseen)
            ]
            report = self._ingest([*survey.files.values()], progress, vanished)
            report.skipped.update(survey.skipped)
            report.failed[:0] = [(str(place(source, self.folder)), why) for source, why in survey.unseen.items()]
            return report

    def remove(self, names: str | Path | Iterable[str | Path]) -> Names:
        """Remove documents, by name or by path, or all below a folder; `update` will not bring them back.

        Returns:
            The names of what was removed.

        Raises:
            NotFoundError: nothing of that name is there; nothing is removed then.
        """
        with self._writing():
            documents = self.store.documents()
            sources = self.store.sources()
            doomed: dict[str, DocumentInfo] = {}
            forgotten: set[bytes] = set()
            for name in [names] if isinstance(names, str | Path) else names:
                if not str(name).strip():  # as a path it would be the working folder, and all that is below it
                    raise ArrieroError("a document's name is empty: expected a name, a file or a folder")
                found, location = self._match(str(name), documents)
                doomed.update((info.name, info) for info in found)
                forgotten.update(source for source in sources if location is not None and is_under(source, location))
                if not found and not forgotten:
                    near = did_you_mean(str(name), [info.name for info in documents])
                    raise NotFoundError(f"no document '{name}' in {self.folder}{near}: `arriero rag list` shows them")
            with self.store.write():
                for location in forgotten | {info.location for info in doomed.values() if info.location in sources}:
                    self.store.set_source(location, None)
                folders = [place for place, (kind, _) in sources.items() if kind == "folder" and place not in forgotten]
                for info in doomed.values():
                    if info.location is not None and any(is_under(info.location, folder) for folder in folders):
                        self.store.set_source(info.location, "excluded")
                self.store.delete(doomed)
            self._save_index()
            return list(doomed)

    def reencode(self, encoder: TextEncoder | str | Path, advance: Advance | None = None) -> int:
        """Encode all passages anew with another encoder, which then is the collection's; returns how many.

        The old vectors stay until all new ones are there, and go in one step.

        Args:
            encoder: an encoder, its folder or its name.
            advance: told how many more passages are done.
        """
        from arriero.rag.encoder import load_encoder  # brings torch

        fresh = load_encoder(encoder, device=self._device) if isinstance(encoder, str | Path) else encoder
        with self._writing():
            ids = self.store.passage_ids()
            vectors = fresh.encode_passages([passage.text for _, passage, _ in self.store.each_passage()], advance)
            settings = encoder_settings(encoder, fresh, self.folder)
            self.store.replace_vectors(ids, vectors, **settings, **{TOKENS: "[]"})
            self._index, self._encoder, self._asked_encoder = None, fresh, None
            self._save_index()
        return len(ids)

    def move_index(self, server: str | None) -> str | None:
        """Keep the vectors' index on a Qdrant server from now on, or, without one, in the folder and in this process.

        Args:
            server: its URL, such as `http://127.0.0.1:6333`; an API key comes from the environment.

        Returns:
            Why the server before still has the vectors, if it could not be asked to remove them.

        Raises:
            ArrieroError: no URL, or no server there; the index is where it was then.
        """
        url = None if server is None else check_url(server)
        with self._writing():
            stayed = move_index(self.store, url)
            self._save_index()
            if url:
                (self.folder / INDEX_NAME).unlink(missing_ok=True)
        return stayed

    def index_facts(self) -> IndexFacts:
        """Kind, size and place of the vectors' index."""
        with self.store.read():
            if self.store.setting("dim") is not None:
                return self._live_index.facts()
            server = self.store.setting(SERVER) or None
        return IndexFacts(kind="qdrant" if server else "flat", vectors=0, missing=0, bytes=None, server=server)

    def list(self) -> Documents:
        """All documents, by name."""
        return self.store.documents()

    def sources(self) -> dict[Path, str]:
        """What was added: path → `folder` or `file`."""
        sources = self.store.sources().items()
        return {place(location, self.folder): kind for location, (kind, _) in sources if kind != "excluded"}

    def search(
        self, query: str, *, k: int = 5, mode: Mode = "hybrid", filters: Mapping[str, str] | None = None
    ) -> Hits:
        """The k best passages, best first; fewer where fewer exist or match the filters.

        Args:
            query: the question, as typed.
            k: how many.
            mode: `dense` (inner product), `bm25` (words), or `hybrid` (both, fused by rank).
            filters: metadata that the documents must have; `document` is the document's name.

        Raises:
            ArrieroError: k below 1, an unknown mode or filter, or another encoder than the collection's.
        """
        check_request(k, mode)
        _ = self.store  # a missing collection is told before the encoder loads
        vector = self.encoder.encode_queries([query])[0]
        return self.search_vector(query, vector, k=k, mode=mode, filters=filters)

    def search_vector(
        self,
        query: str,
        vector: Vectors,
        *,
        k: int = 5,
        mode: Mode = "hybrid",
        filters: Mapping[str, str] | None = None,
    ) -> Hits:
        """`search` with the query's vector (dim,) of the collection's encoder at hand.

        Raises:
            ArrieroError: as `search`, and if the passages were encoded anew since the vector was made.
        """
        with self.store.read():
            self._check_unchanged()
            index = None if mode == "bm25" else self._live_index.get()
            return find(self.store, index, query, vector, k=k, mode=mode, filters=filters)

    @contextmanager
    def _writing(self, *, create: bool = False) -> Iterator[None]:
        """Hold the writer's lock, with the store open; what an interrupted writer left half made is cleared away."""
        if not create:
            _ = self.store  # raises before a lock file is made in some other folder
        with hold_lock(self.folder / _LOCK_NAME, wait_s=self._wait_s):
            for remains in self.folder.glob(".*.part*"):
                remains.unlink(missing_ok=True)
            if not self.exists:
                Store.create(self.folder / FILE_NAME).close()
            if self._asked_chunk is not None and self.store.setting("chunk") != describe_chunking(self._asked_chunk):
                self.store.set_settings(chunk=describe_chunking(self._asked_chunk))
            yield

    def _remember(self, path: Path, given: Mapping[str, str]) -> None:
        """Note a source. What was once removed under it is welcome again."""
        location = locate(path, self.folder)
        sources = self.store.sources()
        for known, (kind, _) in sources.items():
            if kind == "excluded" and is_under(known, location):
                self.store.set_source(known, None)
        before = sources.get(location, ("", {}))[1]
        self.store.set_source(location, "folder" if path.is_dir() else "file", {**before, **given})

    def _ingest(
        self,
        files: Sequence[tuple[SourceFile, Mapping[str, str]]],
        progress: ProgressCallback | None,
        vanished: Sequence[str] = (),
    ) -> IngestReport:
        if self._asked_encoder is not None:
            _ = self.encoder  # another one than the collection's is told even where nothing is to be encoded
        if vanished:
            self.store.delete(vanished)
        ingest = Ingest(self.store, lambda: self.encoder, self.chunk, progress)
        ingest.run_files(files)
        ingest.report.removed.extend(vanished)
        self._save_index()
        return ingest.report

    def _save_index(self) -> None:
        if self.store.setting("dim") is not None:  # before the first passage there is nothing to index
            self._live_index.save()

    def _match(self, name: str, documents: Sequence[DocumentInfo]) -> tuple[Documents, bytes | None]:
        """Documents of a name, else those at or below a path, with the path's location."""
        found = [info for info in documents if info.name == name]
        if found := found or [info for info in documents if same_name(info.name, name)]:
            return found, None
        location = locate(Path(name), self.folder)
        return [info for info in documents if info.location and is_under(info.location, location)], location

    def _check_unchanged(self) -> None:
        """Refuse vectors of an encoder that the stored ones no longer come from."""
        known, own = self.store.setting("encoder_fingerprint"), self._encoder
        if own is not None and known is not None and known != own.fingerprint:
            raise ArrieroError(
                f"the collection in {self.folder} was encoded anew by '{self.store.setting('encoder_name')}' "
                f"({known[:12]}), and the question by '{own.name}' ({own.fingerprint[:12]}): ask again"
            )

    @property
    def _live_index(self) -> LiveIndex | ServerIndex:
        known = (self.store.setting("encoder_fingerprint"), self.store.setting(SERVER))
        if self._index is None or known != self._indexed:  # vectors encoded anew have the ids of the old ones
            self._indexed, dim = known, self.store.setting("dim")
            self._index = open_index(self.store, self.folder / INDEX_NAME, dim=int(dim or self.encoder.dim))
        return self._index


def _names_beside(path: Path) -> Names:
    return [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
