"""What each question of an evaluation came to, as JSON lines that are added to while it goes on."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from arriero.common.errors import FormatError
from arriero.common.journal import Row

System = Literal["closed-book", "retrieve-then-read", "concatenated", "rag-sequence", "rag-token"]
SYSTEMS: tuple[System, ...] = get_args(System)
RECORDS = "questions.jsonl"


@dataclass(frozen=True, kw_only=True)
class Given:
    """What one system answered."""

    text: str
    em: float
    f1: float
    logprob: float | None
    """log p(y|x) by its own model."""
    posterior: tuple[float, ...] = ()
    """p(z|x, y) of each document, for RAG's models."""
    faithfulness: float | None = None
    """Σ_z p(z|x, y) · [z holds the answer], for RAG's models."""


SILENT = Given(text="", em=0.0, f1=0.0, logprob=None)
"""Of a system that has no document to read."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """A document that was read."""

    place: str
    text: str
    prior: float
    """p(z|x)."""
    answers: bool
    """Whether it holds a right answer."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a question came to."""

    id: str
    question: str
    answers: tuple[str, ...]
    rank: int | None
    """Of the first passage that answers, among the first 20, or k where that is more; None: it was not found."""
    dense: float
    """The best passage's inner product with the question."""
    documents: tuple[Read, ...]
    given: dict[System, Given] = field(default_factory=dict)


def read_records(path: Path) -> list[Record]:
    """What was written down; a last line that a kill cut short is none.

    Raises:
        FormatError: a line is damaged.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(as_record(json.loads(line)))
        except (ValueError, LookupError, TypeError) as error:
            raise FormatError(f"{path}, line {number}: damaged; remove it and all lines behind it to go on") from error
    return records


def as_record(row: Row) -> Record:
    """A record of its plain form."""
    given = {name: Given(**{**own, "posterior": tuple(own["posterior"])}) for name, own in row["given"].items()}
    documents = tuple(Read(**document) for document in row["documents"])
    return Record(**{**row, "answers": tuple(row["answers"]), "documents": documents, "given": given})
