"""Questions with their answers out of a StackExchange dump's Posts.xml (LLaMA, section 2.1).

A document is a question (title, body) and its answers, the one of the highest score first; equal scores by their
numbers. Answers lie anywhere in a dump, so it is read once into a temporary database and then asked question by
question: memory stays small whatever the site. Bodies are HTML; `clean_posts` strips it and keeps lists and code.
"""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from html import escape
from pathlib import Path
from typing import IO, Any

from arriero.common.compression import DAMAGE, open_bytes
from arriero.common.errors import require
from arriero.corpus.decoding import refuse_dtd
from arriero.corpus.document import MAX_BYTES, Document, Each
from arriero.corpus.web_text import MAX_NODES, nodes

LICENCE = "CC-BY-SA-4.0"
_QUESTION, _ANSWER = "1", "2"
_BREAK = "\n<!-- next post -->\n"
"""What stands between a question and its answers in the raw text; bodies hold no comments."""
_BATCH = 1000
_Row = tuple[int, int, int | None, int, str, str]


def read_stackexchange(path: Path, name: str) -> Iterator[Document]:
    """The questions of a site, by number, in which ids end. The folder is called as the site: coffee.stackexchange.com.

    Raises:
        MissingExtraError: lxml is not installed.
    """
    site = path.parent.name or name
    with (
        tempfile.TemporaryDirectory(prefix="arriero-posts-") as folder,
        closing(sqlite3.connect(Path(folder) / "posts")) as posts,
    ):
        posts.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE post (id INTEGER, kind INTEGER, parent INTEGER, score INTEGER, title TEXT, body TEXT)"
        )
        yield from _load(path, name, posts)
        posts.execute("CREATE INDEX by_parent ON post (kind, parent, score DESC, id)")
        for number, title, body, score in posts.execute(
            "SELECT id, title, body, score FROM post WHERE kind = 1 ORDER BY id, rowid"
        ):
            answers = posts.execute(
                "SELECT body FROM post WHERE kind = 2 AND parent = ? ORDER BY score DESC, id", (number,)
            ).fetchall()
            text = _BREAK.join((f"<h1>{escape(title)}</h1>\n{body}", *(answer for (answer,) in answers)))
            document = Document(
                id=f"{name}#{number}",
                text=text,
                origin=f"https://{site}/questions/{number}",
                licence=LICENCE,
                metadata={"score": score, "answers": len(answers)},
            )
            yield (
                document if len(text) <= MAX_BYTES else document.with_text("").drop("stackexchange: longer than 64 MiB")
            )
        lone = "kind = 2 AND parent NOT IN (SELECT id FROM post WHERE kind = 1)"
        for number, body in posts.execute(f"SELECT id, body FROM post WHERE {lone} ORDER BY id"):  # noqa: S608 - ours
            answer = Document(id=f"{name}#{number}", text=body, origin=f"https://{site}/a/{number}")
            yield answer.drop("stackexchange: an answer without its question")


def _database(folder: str) -> sqlite3.Connection:
    posts = sqlite3.connect(Path(folder) / "posts")
    posts.executescript(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
        "CREATE TABLE post (id INTEGER, kind INTEGER, parent INTEGER, score INTEGER, title TEXT, body TEXT)"
    )
    return posts


def _load(path: Path, name: str, posts: sqlite3.Connection) -> Iterator[Document]:
    """Fill the database; what cannot be read, or is neither question nor answer, comes out as dropped documents."""
    etree = require("lxml.etree", extra="corpus", purpose="reading StackExchange dumps")
    batch: list[_Row] = []
    place = 0
    with open_bytes(path) as (content, _):
        refuse_dtd(path, content)
        try:
            for place, attributes in enumerate(_rows(etree, content), 1):
                row = _read(attributes)
                if isinstance(row, str):
                    yield Document(id=f"{name}#row {place}", text=attributes.get("Body", ""), origin=str(path)).drop(
                        row
                    )
                    continue
                batch.append(row)
                if len(batch) >= _BATCH:
                    posts.executemany("INSERT INTO post VALUES (?, ?, ?, ?, ?, ?)", batch)
                    batch.clear()
        except (etree.XMLSyntaxError, *DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            damaged = Document(id=f"{name}#row {place + 1}", text=str(error), origin=str(path))
            yield damaged.drop("stackexchange: the dump is cut off or broken from here on")
    posts.executemany("INSERT INTO post VALUES (?, ?, ?, ?, ?, ?)", batch)


def _rows(etree: Any, content: IO[bytes]) -> Iterator[dict[str, str]]:
    options = {"huge_tree": True, "resolve_entities": False, "no_network": True, "load_dtd": False}
    for _, element in etree.iterparse(content, tag="row", **options):
        yield dict(element.attrib)
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]


def _read(attributes: dict[str, str]) -> _Row | str:
    """A row of the database, or why there is none. Scores are numbers: as texts, "9" would stand above "10"."""
    kind = attributes.get("PostTypeId")
    if kind not in (_QUESTION, _ANSWER):
        return "stackexchange: neither question nor answer"
    try:
        number, score = int(attributes["Id"]), int(attributes.get("Score") or 0)
        parent = int(attributes["ParentId"]) if kind == _ANSWER else None
    except (KeyError, ValueError):
        return "stackexchange: broken row"
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
        return document.with_text("\n\n".join(part.strip() for part in parts if part.strip()))

    return Each("posts", strip)
