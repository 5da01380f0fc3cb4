"""`--rag FOLDER`: a RAG model that `arriero rag train` made, in place of a generator and a side of the retriever."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from arriero.cli.collection import CollectionConfig
from arriero.common.errors import ArrieroError
from arriero.model.choices import DEFAULT_MODEL

if TYPE_CHECKING:
    from arriero.rag.decoding_config import RagKind
    from arriero.rag.rag_model import RagModel

C = TypeVar("C", bound=CollectionConfig)


class RagOptions(Protocol):
    """The options of a command that takes `--rag`."""

    @property
    def rag(self) -> Path | None: ...
    @property
    def model(self) -> str: ...
    @property
    def adapter(self) -> Path | None: ...
    @property
    def encoder(self) -> str | None: ...
    @property
    def query_encoder(self) -> Path | None: ...
    @property
    def device(self) -> str: ...


def load_trained(options: RagOptions, kind: "RagKind | None" = None) -> "RagModel | None":
    """The RAG model that a command names, if it names one.

    Args:
        options: of the command.
        kind: which of the two models is asked for; by default what it is.

    Raises:
        ArrieroError: an option beside it that it brings itself, or a model of the other kind.
        NotFoundError, FormatError: there is none, or it is damaged.
    """
    from arriero.rag.rag_model import load_rag

    if options.rag is None:
        return None
    if options.adapter is not None:
        raise ArrieroError("--rag brings its own generator: leave --adapter out")
    base = None if options.model == DEFAULT_MODEL else options.model
    trained = load_rag(options.rag, kind=kind, model=base, device=options.device)
    if options.query_encoder is not None and (trained.query_encoder or trained.encoder):
        raise ArrieroError("--rag brings its own query encoder: leave --query-encoder out")
    if options.encoder is not None and trained.encoder:
        raise ArrieroError("--rag brings its own encoder: leave --encoder out")
    return trained


def asking_by(config: C, trained: "RagModel | None") -> C:
    """The same collection, asked by the RAG model's side of the retriever."""
    if trained is None:
        return config
    return dataclasses.replace(
        config,
        query_encoder=trained.query_encoder or config.query_encoder,
        encoder=str(trained.encoder) if trained.encoder else config.encoder,
    )
