"""Questions with their answers out of a StackExchange dump's Posts.xml (LLaMA, section 2.1).

A document is a question (title, body) and its answers, the one of the highest score first; equal scores by their
numbers. Questions without answers stay, as in LLaMA. Answers lie anywhere in a dump, so it is read once into a
temporary database and then asked question by question: memory is that of the longest one, and disk (`TMPDIR`) the
dump's size. Bodies are HTML; `clean_posts` strips it and keeps lists and code. Which sites, LLaMA's 28 largest or
others, is a matter of which dumps are given.
"""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from html import escape
from pathlib import Path

from arriero.common.errors import ArrieroError, require
from arriero.corpus.document import MAX_BYTES, Document, Each
from arriero.corpus.dumps import Dump, parse_record
from arriero.corpus.web_text import MAX_NODES, nodes

LICENCE = "CC-BY-SA-4.0"
_QUESTION, _ANSWER = "1", "2"
_BREAK = "\n<!-- arriero: next post -->\n"
"""What stands between a question and its answers in the raw text."""
_TABLE = """
    PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
    CREATE TABLE post (id INTEGER PRIMARY KEY, kind INTEGER, parent INTEGER, score INTEGER, title TEXT, body TEXT);
"""
_INDEX = "CREATE INDEX answers ON post (parent, score DESC, id) WHERE kind = 2"
_QUESTIONS = "SELECT id, score, title, body FROM post WHERE kind = 1 ORDER BY id"
_LENGTH = "SELECT sum(length(CAST(body AS BLOB))) FROM post WHERE kind = 2 AND parent = ?"
_ANSWERS = "SELECT body FROM post WHERE kind = 2 AND parent = ? ORDER BY score DESC, id"
_LONE = """
    SELECT id, body FROM post AS answer WHERE kind = 2
    AND NOT EXISTS (SELECT 1 FROM post AS question WHERE question.id = answer.parent AND question.kind = 1) ORDER BY id
"""
_Row = tuple[int, int, int | None, int, str, str]


def read_stackexchange(path: Path, name: str) -> Iterator[Document]:
    """The questions of a site, by number, in which ids end. The folder is called as the site: coffee.stackexchange.com.

    Raises:
        ArrieroError: the temporary database cannot be written.
        FormatError: the file is no dump of posts.
        MissingExtraError: lxml is not installed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="arriero-posts-") as folder,
        closing(sqlite3.connect(Path(folder) / "posts")) as posts,
    ):
        try:
            posts.executescript(_TABLE)
            yield from _load(path, name, posts)
            posts.execute(_INDEX)
            yield from _questions(path, name, posts)
        except sqlite3.OperationalError as error:
            raise ArrieroError(
                f"{folder}: expected room for {path}, got: {error}; TMPDIR names another disk"
            ) from error


def _questions(path: Path, name: str, posts: sqlite3.Connection) -> Iterator[Document]:
    """The questions with their answers, then what answers none of them."""
    site = path.parent.name
    address = f"https://{site}/" if "." in site else f"{path}#"
    for number, score, title, body in posts.execute(_QUESTIONS):
        document = Document(id=f"{name}#{number}", text="", origin=f"{address}questions/{number}", licence=LICENCE)
        (length,) = posts.execute(_LENGTH, (number,)).fetchone()
        if len(body.encode()) + (length or 0) > MAX_BYTES:
            yield document.drop("stackexchange: longer than 64 MiB")
            continue
        answers = [answer for (answer,) in posts.execute(_ANSWERS, (number,))]
        document = document.with_metadata(score=score, answers=len(answers))
        yield document.with_text(_BREAK.join((f"<h1>{escape(title)}</h1>\n{body}", *answers)))
    for number, body in posts.execute(_LONE):
        answer = Document(id=f"{name}#{number}", text=body, origin=f"{address}a/{number}", licence=LICENCE)
        yield answer.drop("stackexchange: an answer without its question")


def _load(path: Path, name: str, posts: sqlite3.Connection) -> Iterator[Document]:
    """Fill the database; what cannot be read, or is neither question nor answer, comes out as dropped documents."""
    dump = Dump(path, "posts", b"<row ", b"/>")
    for place, (data, reason) in enumerate(dump.records(), 1):
        row = reason or _parse(data)
        if isinstance(row, tuple):
            inserted = posts.execute("INSERT OR IGNORE INTO post VALUES (?, ?, ?, ?, ?, ?)", row).rowcount
            row = row if inserted else "a number that another post has"
        if isinstance(row, str):
            document = Document(id=f"{name}#row {place}", text=data.decode("utf-8", "replace"), origin=str(path))
            yield document.drop(row if ":" in row else f"stackexchange: {row}")


def _parse(data: bytes) -> _Row | str:
    element, reason = parse_record(data)
    return reason or _read(element.attrib)


def _read(attributes: dict[str, str]) -> _Row | str:
    """A row of the database, or why there is none. Scores are numbers: as texts, "9" would stand above "10"."""
    kind = attributes.get("PostTypeId")
    if kind not in (_QUESTION, _ANSWER):
        return "neither question nor answer"
    try:
        number, score = int(attributes["Id"]), int(attributes.get("Score") or 0)
        parent = int(attributes["ParentId"]) if kind == _ANSWER else None
    except (KeyError, ValueError):
        return "broken record"
    if max(number, abs(score), parent or 0) >= 1 << 63 or min(number, parent or 0) < 0:
        return "broken record"
    return number, int(kind), parent, score, attributes.get("Title", ""), attributes.get("Body", "")


def clean_posts() -> Each:
    """The step that strips HTML and keeps lists and code: title, question, answers, a blank line between."""

    def strip(document: Document) -> Document:
        if nodes(document.text) > MAX_NODES:
            return document.drop("html: nested too deeply")
        extraction = require("resiliparse.extract.html2text", extra="corpus", purpose="reading posts")
        parts = (
            extraction.extract_plain_text(part, preserve_formatting=True, main_content=False, alt_texts=False)
            for part in document.text.split(_BREAK)
        )
        text = "\n\n".join(part.strip() for part in parts if part.strip())
        return document.with_text(text) if text else document.drop("posts: no text but markup")

    return Each("posts", strip)
