"""Human preferences (Llama 2, arXiv 2307.09288, section 3.2.1): two responses to a prompt, and which is better.

One SQLite file in WAL mode, which several annotators' processes may write at once. A pair is there before it is judged;
a judgement names who made it and in which weekly batch. Helpfulness and safety are collected apart; a choice that
prefers the unsafe response to a safe one is kept, flagged, and left out of training, as the paper did.
"""
# ruff: noqa: S608  (queries are put together from constants of this file only; every value is bound)

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.common.sqlite_file import FileKind, readable_errors
from arriero.tokenizer.chat import Message, check_messages

Kind = Literal["helpfulness", "safety"]
"""What the annotator was asked to judge."""
Degree = Literal["significantly better", "better", "slightly better", "negligibly better"]
"""How much better the chosen response is; the last is also for the unsure."""
Safety = Literal["chosen safe", "both safe", "both unsafe", "chosen unsafe"]
"""The paper's three bins, and the choice that it left out: the unsafe response preferred to a safe one."""
Judge = Literal["human", "imported", "reward model", "program"]
"""Who judged."""

_BUSY_SECONDS = 30.0
_SCHEMA = """
CREATE TABLE prompts (id INTEGER PRIMARY KEY, messages TEXT NOT NULL UNIQUE);
CREATE TABLE responses (
    id INTEGER PRIMARY KEY,
    prompt_id INTEGER NOT NULL REFERENCES prompts,
    text TEXT NOT NULL,
    model TEXT NOT NULL,
    sampling TEXT NOT NULL,
    UNIQUE (prompt_id, text, model, sampling)
);
CREATE TABLE pairs (
    id INTEGER PRIMARY KEY,
    prompt_id INTEGER NOT NULL REFERENCES prompts,
    first_id INTEGER NOT NULL REFERENCES responses,
    second_id INTEGER NOT NULL REFERENCES responses,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    UNIQUE (first_id, second_id, kind)
);
CREATE TABLE judgements (
    id INTEGER PRIMARY KEY,
    pair_id INTEGER NOT NULL REFERENCES pairs,
    choice INTEGER NOT NULL CHECK (choice IN (1, 2)),
    degree TEXT,
    safety TEXT,
    annotator TEXT NOT NULL,
    judge TEXT NOT NULL,
    batch TEXT NOT NULL,
    time TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    UNIQUE (pair_id, annotator)
);
"""
_FILE = FileKind(what="file of preferences", application_id=0x41525250, version=1, schema=_SCHEMA)  # "ARRP"
_PAIR = """
SELECT pair.id, prompt.messages, one.text, two.text, one.model, two.model, one.sampling, two.sampling,
       pair.kind, pair.source
FROM pairs pair JOIN prompts prompt ON prompt.id = pair.prompt_id
JOIN responses one ON one.id = pair.first_id JOIN responses two ON two.id = pair.second_id
"""


@dataclass(frozen=True, kw_only=True)
class Response:
    """One answer, and where it comes from."""

    text: str
    model: str = "unknown"
    """The variant that gave it."""
    sampling: Mapping[str, float] | None = None
    """Temperature and the like."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two responses to compare."""

    id: int
    prompt: tuple[Message, ...]
    """The chat up to the response: it ends with a message of the user."""
    first: Response
    second: Response
    kind: Kind
    source: str
    """Where the pair comes from."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What one annotator said of a pair."""

    choice: Literal[1, 2]
    degree: Degree | None = None
    """None where a data set does not tell."""
    safety: Safety | None = None
    annotator: str
    judge: Judge = "human"
    batch: str
    """The collection's batch, weekly in the paper."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("choice", self.choice, (1, 2)),
            ("degree", self.degree, (*get_args(Degree), None)),
            ("safety", self.safety, (*get_args(Safety), None)),
            ("judge", self.judge, get_args(Judge)),
        ):
            if value not in known:
                expected = ", ".join(str(item) for item in known if item is not None)
                raise ArrieroError(f"{name}: expected {expected}, got {value!r}")

    @property
    def flagged(self) -> bool:
        """Whether it is left out of training."""
        return self.safety == "chosen unsafe"


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A judgement without the texts: for counts of many."""

    pair: int
    first: str
    """Variant of the first response."""
    second: str
    choice: Literal[1, 2]
    degree: Degree | None
    annotator: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A judged pair, as training takes it."""

    pair: Pair
    judgement: Judgement

    @property
    def chosen(self) -> Response:
        """The preferred response."""
        return self.pair.first if self.judgement.choice == 1 else self.pair.second

    @property
    def rejected(self) -> Response:
        """The other one."""
        return self.pair.second if self.judgement.choice == 1 else self.pair.first


class Preferences:
    """An open file of preferences."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open a file, or make it.

        Raises:
            NotFoundError: there is none, and `create` is not set.
            FormatError: it is no file of preferences, or of a newer version.
        """
        if not path.is_file():
            if not create:
                raise NotFoundError(f"no such file of preferences: {path}")
            _FILE.create(path)
        self.path = path
        with self._errors():
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                _FILE.check(self._db, path)
            except BaseException:
                self._db.close()
                raise
            self._db.execute("PRAGMA foreign_keys = ON")

    def __enter__(self) -> "Preferences":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add_pair(self, prompt: Sequence[Message], first: Response, second: Response, *, kind: Kind, source: str) -> int:
        """Add two responses to compare; the pair's id, that of an equal pair if there is one.

        Raises:
            ArrieroError: the prompt does not end with a message of the user, a response is empty, or both are equal.
        """
        turns = check_messages(prompt)
        if not turns or turns[-1]["role"] != "user":
            raise ArrieroError("prompt: expected a chat that ends with a message of the user")
        for name, response in (("first", first), ("second", second)):
            if not response.text.strip():
                raise ArrieroError(f"{name} response: expected a text, got an empty one")
        if first.text == second.text:
            raise ArrieroError("the two responses are equal: there is nothing to compare")
        with self._errors(), self._transaction():
            prompt_id = self._find_or_add("prompts", messages=_dump(turns))
            ids = [
                self._find_or_add(
                    "responses",
                    prompt_id=prompt_id,
                    text=response.text,
                    model=response.model,
                    sampling=_dump(dict(response.sampling or {})),
                )
                for response in (first, second)
            ]
            known = self._db.execute(
                "SELECT id FROM pairs WHERE kind = ? AND (first_id = ? AND second_id = ? "
                "OR first_id = ? AND second_id = ?)",
                (kind, *ids, *reversed(ids)),
            ).fetchone()
            if known is not None:
                return int(known[0])
            values = {"prompt_id": prompt_id, "first_id": ids[0], "second_id": ids[1], "kind": kind, "source": source}
            return self._find_or_add("pairs", **values)

    def judge(self, pair: int, judgement: Judgement) -> None:
        """Note what an annotator said; what the same one said before is replaced.

        Raises:
            NotFoundError: there is no such pair.
        """
        row = (
            pair, judgement.choice, judgement.degree, judgement.safety, judgement.annotator, judgement.judge,
            judgement.batch,
        )  # fmt: skip
        with self._errors():
            if self._db.execute("SELECT 1 FROM pairs WHERE id = ?", (pair,)).fetchone() is None:
                raise NotFoundError(f"{self.path}: there is no pair {pair}")
            self._db.execute(
                "INSERT INTO judgements (pair_id, choice, degree, safety, annotator, judge, batch) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (pair_id, annotator) DO UPDATE SET choice = excluded.choice, "
                "degree = excluded.degree, safety = excluded.safety, judge = excluded.judge, batch = excluded.batch, "
                "time = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')",
                row,
            )

    def pair(self, number: int) -> Pair:
        """One pair.

        Raises:
            NotFoundError: there is none of this id.
        """
        with self._errors():
            row = self._db.execute(f"{_PAIR} WHERE pair.id = ?", (number,)).fetchone()
        if row is None:
            raise NotFoundError(f"{self.path}: there is no pair {number}")
        return _pair(row)

    def pairs(self) -> Iterator[Pair]:
        """All pairs, judged or not, in the order in which they came."""
        with self._errors():
            rows = self._db.execute(f"{_PAIR} ORDER BY pair.id").fetchall()
        return map(_pair, rows)

    def pending(self, annotator: str, kind: Kind | None = None, most: int = -1) -> Iterator[Pair]:
        """The pairs that an annotator has not judged yet, in the order in which they came; all, or so many."""
        query = (
            f"{_PAIR} WHERE NOT EXISTS (SELECT 1 FROM judgements own WHERE own.pair_id = pair.id AND own.annotator = ?)"
            " AND (? IS NULL OR pair.kind = ?) ORDER BY pair.id LIMIT ?"
        )
        with self._errors():
            rows = self._db.execute(query, (annotator, kind, kind, most)).fetchall()
        return map(_pair, rows)

    def progress(self, annotator: str, kind: Kind | None = None) -> tuple[int, int]:
        """How many pairs an annotator has judged, and how many there are."""
        query = (
            "SELECT count(own.id), count(*) FROM pairs LEFT JOIN judgements own "
            "ON own.pair_id = pairs.id AND own.annotator = ? WHERE ? IS NULL OR pairs.kind = ?"
        )
        with self._errors():
            judged, total = self._db.execute(query, (annotator, kind, kind)).fetchone()
        return int(judged), int(total)

    def votes(self) -> Iterator[Vote]:
        """All judgements, the flagged ones too, without the texts."""
        query = (
            "SELECT j.pair_id, one.model, two.model, j.choice, j.degree, j.annotator FROM judgements j "
            "JOIN pairs pair ON pair.id = j.pair_id JOIN responses one ON one.id = pair.first_id "
            "JOIN responses two ON two.id = pair.second_id ORDER BY j.pair_id, j.id"
        )
        with self._errors():
            rows = self._db.execute(query).fetchall()
        names = ("pair", "first", "second", "choice", "degree", "annotator")
        return (Vote(**dict(zip(names, row, strict=True))) for row in rows)

    def comparisons(self, kind: Kind | None = None, *, flagged: bool = False) -> Iterator[Comparison]:
        """The judged pairs; those that prefer the unsafe response only with `flagged`."""
        query = (
            "SELECT j.choice, j.degree, j.safety, j.annotator, j.judge, j.batch, p.* "
            f"FROM judgements j JOIN ({_PAIR}) p ON p.id = j.pair_id WHERE (? IS NULL OR p.kind = ?) "
            "ORDER BY j.pair_id, j.id"
        )
        with self._errors():
            rows = self._db.execute(query, (kind, kind)).fetchall()
        for choice, degree, safety, annotator, judge, batch, *pair in rows:
            judgement = Judgement(
                choice=choice, degree=degree, safety=safety, annotator=annotator, judge=judge, batch=batch
            )
            if flagged or not judgement.flagged:
                yield Comparison(pair=_pair(pair), judgement=judgement)

    def count(self) -> dict[str, int]:
        """Rows of each table."""
        with self._errors():
            return {
                name: int(self._db.execute(f"SELECT count(*) FROM {name}").fetchone()[0])
                for name in ("prompts", "responses", "pairs", "judgements")
            }

    def _find_or_add(self, table: str, **values: Any) -> int:
        """The id of the row with these values, which is added if it is not there."""
        same = " AND ".join(f"{name} = ?" for name in values)
        found = self._db.execute(f"SELECT id FROM {table} WHERE {same}", (*values.values(),)).fetchone()
        if found is not None:
            return int(found[0])
        marks = ", ".join("?" * len(values))
        cursor = self._db.execute(
            f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})",
            (*values.values(),),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; inside another one, a part of that."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Everything added inside is there afterwards, or nothing of it: for imports."""
        with self._errors(), self._transaction():
            yield

    def _errors(self) -> AbstractContextManager[None]:
        """What the user can mend, in a line."""
        return readable_errors(self.path, str(self.path))


def this_week() -> str:
    """The week, as batches are named."""
    year, week, _ = date.today().isocalendar()
    return f"{year}-W{week:02d}"


def _pair(row: Sequence[Any]) -> Pair:
    number, messages, one, two, model_one, model_two, sampling_one, sampling_two, kind, source = row
    return Pair(
        id=number,
        prompt=tuple(json.loads(messages)),
        first=Response(text=one, model=model_one, sampling=json.loads(sampling_one)),
        second=Response(text=two, model=model_two, sampling=json.loads(sampling_two)),
        kind=kind,
        source=source,
    )


def _dump(value: Any) -> str:
    """JSON that is the same for the same value."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
