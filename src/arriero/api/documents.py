"""Your documents in Python: `Documents(folder)`, what is found in them, and what a model answers from them.

It is the collection of the `arriero rag` commands: what one adds the other finds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, overload

from arriero.api.model import Model
from arriero.common.errors import NotFoundError
from arriero.model.choices import DEFAULT_MODEL
from arriero.rag.answer import Answer, stream_answer
from arriero.rag.answer import ask as ask_collection
from arriero.rag.answer_config import AnswerConfig, Mode
from arriero.rag.chunk import ChunkConfig
from arriero.rag.citations import without_markers
from arriero.rag.collection import Collection
from arriero.rag.ingest import IngestReport
from arriero.rag.ingest_bar import ingest_bar
from arriero.rag.prompt import Turn
from arriero.rag.search import Hit
from arriero.rag.store import FILE_NAME, DocumentInfo

KEPT = Path(".arriero") / "documents"
"""Where the collection of a folder lies in it: where the commands keep theirs, below the folder that one works in."""

Names = str | Path | Iterable[str | Path]


class Documents:
    """Documents that can be searched and asked. Use it as a context manager, or call `close`.

    >>> with Documents("notes") as documents:
    ...     print(documents.ask("When does the train leave?"))
    The train to Cusco leaves San Pedro station at half past seven in the morning. [1]
    <BLANKLINE>
    [1] notes/journey.txt
        “The train to Cusco leaves San Pedro station at half past seven in the morning.”
    """

    def __init__(
        self,
        folder: str | Path = ".",
        *,
        encoder: str | Path | None = None,
        chunk: ChunkConfig | None = None,
        device: str = "auto",
    ) -> None:
        """The documents in a folder and below, as they are now: only what is new or changed is read.

        The collection is kept in the folder's `.arriero/documents`, where the commands look for it when they run in the
        folder. What cannot be read is in `report.failed`.

        Args:
            folder: a folder with documents; or one that is itself a collection, which is opened as it is.
            encoder: a name or a folder; by default the collection's own, and all-minilm-l6-v2 for a new one.
            chunk: how texts are cut; by default as the collection was made.
            device: where the encoder runs.

        Raises:
            NotFoundError: there is no such folder, or no encoder.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise NotFoundError(f"no folder {folder}: Documents.open makes a new collection, empty at first")
        is_collection = (folder / FILE_NAME).is_file()
        where = folder if is_collection else folder / KEPT
        self.collection = Collection.open(where, encoder, chunk=chunk, device=device)
        """The collection, with all that it can."""
        self.report = IngestReport()
        """What the last look at the files brought."""
        self._models: dict[str, Model] = {}
        if not is_collection:
            known = self.collection.exists and folder.resolve() in self.collection.sources()
            self.report = self.update() if known else self.add(folder)

    @classmethod
    def open(
        cls,
        folder: str | Path = KEPT,
        *,
        encoder: str | Path | None = None,
        query_encoder: Path | None = None,
        chunk: ChunkConfig | None = None,
        device: str = "auto",
    ) -> "Documents":
        """A collection as the commands' `--collection` names it; it is made by the first `add`.

        Args:
            folder: where it lies.
            encoder: as of `Documents`.
            query_encoder: folder of a query encoder that was trained for its passages.
            chunk: as of `Documents`.
            device: as of `Documents`.
        """
        documents = cls.__new__(cls)
        documents.collection = Collection.open(
            Path(folder).expanduser(), encoder, chunk=chunk, device=device, query_encoder=query_encoder
        )
        documents.report, documents._models = IngestReport(), {}
        return documents

    def __enter__(self) -> "Documents":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the collection, and forget the models."""
        self.collection.close()
        self._models.clear()

    def __len__(self) -> int:
        """How many documents there are."""
        return self.collection.store.document_count() if self.collection.exists else 0

    def __iter__(self) -> Iterator[DocumentInfo]:
        """What is known of each document, by name."""
        return iter(self.collection.list() if self.collection.exists else [])

    def __repr__(self) -> str:
        return f"<Documents {self.collection.folder}, {len(self)} of them>"

    def add(self, paths: Names, *, metadata: Mapping[str, str] | None = None) -> IngestReport:
        """Take in files and folders, and remember them for `update`.

        >>> with Documents.open("letters.arriero") as documents:
        ...     documents.add("notes/journey.txt", metadata={"year": "2026"}).added
        ['journey.txt']

        Args:
            paths: files, and folders with all that is in them.
            metadata: what to note with each, for filters.

        Returns:
            What was added, and what could not be read, and why.

        Raises:
            NotFoundError: a path does not exist; nothing is added then.
        """
        with ingest_bar("Reading") as tell:
            self.report = self.collection.add(paths, tell, metadata=metadata)
        return self.report

    def update(self) -> IngestReport:
        """Look again at all that was added: take in what is new or changed, remove what is gone."""
        with ingest_bar("Reading") as tell:
            self.report = self.collection.update(tell)
        return self.report

    def remove(self, names: Names) -> list[str]:
        """Take documents out, by name or path, or all below a folder; `update` does not bring them back.

        Returns:
            The names of what was removed.

        Raises:
            NotFoundError: nothing of that name is there; nothing is removed then.
        """
        return self.collection.remove(names)

    def search(
        self, question: str, *, k: int = 5, mode: Mode = "hybrid", filters: Mapping[str, str] | None = None
    ) -> list[Hit]:
        """The passages nearest to a question or to some words, best first.

        >>> with Documents("notes") as documents:
        ...     documents.search("train station", k=1)[0].passage.place
        'notes/journey.txt'

        Args:
            question: what to look for.
            k: how many passages.
            mode: dense (meaning), bm25 (words), or hybrid (both, fused by rank).
            filters: only documents with this metadata; `document` is a document's name.
        """
        return self.collection.search(question, k=k, mode=mode, filters=filters)

    @overload
    def ask(
        self,
        question: str,
        config: AnswerConfig | None = None,
        *,
        model: Model | str = DEFAULT_MODEL,
        history: Sequence[Answer] = (),
        filters: dict[str, str] | None = None,
        stream: Literal[False] = False,
    ) -> Answer: ...
    @overload
    def ask(
        self,
        question: str,
        config: AnswerConfig | None = None,
        *,
        model: Model | str = DEFAULT_MODEL,
        history: Sequence[Answer] = (),
        filters: dict[str, str] | None = None,
        stream: Literal[True],
    ) -> Iterator[str | Answer]: ...
    def ask(
        self,
        question: str,
        config: AnswerConfig | None = None,
        *,
        model: Model | str = DEFAULT_MODEL,
        history: Sequence[Answer] = (),
        filters: dict[str, str] | None = None,
        stream: bool = False,
    ) -> Answer | Iterator[str | Answer]:
        """Answer a question from the documents; each sentence that a passage supports carries the passage's number.

        >>> with Documents("notes") as documents:
        ...     answer = documents.ask("When does the train leave?")
        ...     lost = documents.ask("Who composed the opera Carmen?")
        >>> answer.citations[0].quote
        'The train to Cusco leaves San Pedro station at half past seven in the morning.'
        >>> lost.refused
        True

        Args:
            question: as you would type it.
            config: how to answer: passages, search, when to refuse, sampling.
            model: who answers; a name is loaded once, and kept until `close`.
            history: the answers of the talk so far, oldest first: a follow-up is understood with the last of them.
            filters: only documents with this metadata; `document` is a document's name.
            stream: give sentences as they come, and the `Answer` last.

        Returns:
            Text, citations with quotes and places, whether it was refused; printed, or shown in a notebook, with its
            sources.

        Raises:
            ArrieroError: an empty question, or one too long for the model.
            NotFoundError: there is no collection yet, or the model is not here.
        """
        _ = self.collection.store  # a missing collection is told before a model loads
        turns = [Turn(past.question, without_markers(past.text)) for past in history if not past.refused]
        answerer = model if isinstance(model, Model) else self._load(model)
        if stream:
            return stream_answer(self.collection, answerer, question, config, history=turns, filters=filters)
        return ask_collection(self.collection, answerer, question, config, history=turns, filters=filters)

    def _load(self, name: str) -> Model:
        if name not in self._models:
            self._models[name] = Model.load(name)
        return self._models[name]
