"""All recipes on small real inputs, with exact counts; by one worker and by two; interrupted and resumed; refused."""

import bz2
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("fasttext")
pytest.importorskip("fastwarc")
pytest.importorskip("lxml")
pytest.importorskip("rensa")
pytest.importorskip("resiliparse")
pytest.importorskip("zstandard")

from arriero.common.errors import ArrieroError
from arriero.corpus import recipes
from arriero.corpus.document import Each
from arriero.corpus.executor_config import ExecutorConfig
from arriero.corpus.ledger import Ledger
from arriero.corpus.recipes import build_recipe
from arriero.corpus.rows import read_rows
from arriero.corpus.run import make_corpus
from arriero.corpus.source import Kind, SourceConfig

pytestmark = pytest.mark.weights

Made = tuple[Path, dict[str, Ledger]]

KEPT = {
    "arxiv": 1,
    "books": 1,
    "c4": 3,
    "commoncrawl": 1,
    "files": 2,
    "github": 2,
    "stackexchange": 225,
    "wikipedia": 903,
}
DROPPED = {
    "arxiv": {},
    "books": {"near duplicates: much like another document": 1},
    "c4": {
        "c4: lorem ipsum": 1,
        "language: not sure": 1,
        "repeated paragraphs (c4-code): nothing is left": 1,
        "utf-8: invalid": 1,
    },
    "commoncrawl": {
        "shorter than 300 characters": 4,
        "warc: broken HTTP response": 1,
        "warc: broken record": 1,
        "warc: no page (content type)": 3,
    },
    "files": {"exact duplicates: copy of another document": 1, "files: no text can be had from it": 1},
    "github": {
        "code: a line too long": 1,
        "exact duplicates: copy of another document": 1,
        "github: a licence or certificate": 1,
        "github: no code (extension)": 1,
    },
    "stackexchange": {"stackexchange: neither question nor answer": 40},
    "wikipedia": {
        "wikipedia: not an article (namespace)": 954,
        "wikipedia: redirect": 147,
        "wikitext: no text but markup": 8,
    },
}
ENGLISH = [
    "They are animals of the mountains, and people have kept them for years because they are strong.",
    "The wool that they give is warm and light, and it has been worn by the people who live there.",
    "Most of the herds are in the south of the country, where it is very cold during the night.",
]
"""Three lines that two pages have."""
GERMAN = ["Das Lama trägt Wolle über die Berge.", "Es lebt in Peru und in Bolivien.", "Dort trägt es auch Lasten."]
OTHER = [
    "Another page has some other lines of its own.",
    "They are all about wool, and how it is spun.",
    "It ends with the third one, which is this.",
]
CODE = 'def walk(llama):\n    """One step."""\n    return llama.position + 1\n'
MIT = 'Permission is hereby granted, free of charge, to any person. THE SOFTWARE IS PROVIDED "AS IS".'


@pytest.fixture(scope="module")
def sources(data_folder: Path, lid176: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceConfig]:
    """Real dumps where there are some, and small files of the same kinds."""
    corpus, raw = data_folder / "corpus", tmp_path_factory.mktemp("raw")
    _pages(raw / "c4")
    _repository(raw / "github" / "llamas")
    _files(raw / "files")
    (raw / "wikipedia").mkdir()
    small = (corpus / "wikipedia" / "smallwiki-latest-pages-articles.xml").read_bytes()
    (raw / "wikipedia" / "smallwiki.xml.bz2").write_bytes(bz2.compress(small))
    tiny = corpus / "wikipedia" / "tinywiki-latest-pages-articles.xml"
    paths = {
        "arxiv": (corpus / "arxiv",),
        "books": (corpus / "books",),
        "c4": (raw / "c4",),
        "commoncrawl": (corpus / "warc",),
        "files": (raw / "files",),
        "github": (raw / "github",),
        "stackexchange": (corpus / "stackexchange",),
        "wikipedia": (raw / "wikipedia", tiny),
    }
    return {kind: SourceConfig(kind=kind, paths=these) for kind, these in paths.items()}  # type: ignore[arg-type]


def _pages(folder: Path) -> None:
    folder.mkdir(parents=True)
    pages = [
        [*ENGLISH, "And this is a line of text that no other page of the site has, but this one."],
        OTHER,
        [*ENGLISH, "Lorem ipsum dolor sit amet, they wrote."],
        GERMAN,
        ENGLISH,
    ]
    rows = [{"text": "\n".join(lines), "url": f"http://x/{number}"} for number, lines in enumerate(pages)]
    lines = [*(json.dumps(row).encode() for row in rows), b'{"text": "caf\xe9"}']
    (folder / "pages.jsonl").write_bytes(b"\n".join(lines))
    html = "".join(f"<p>An HTML page is read too, by its paragraphs, of which this is {which}.</p>" for which in WHICH)
    (folder / "page.html").write_text(f"<html><head><title>Pages</title></head><body>{html}</body></html>")


WHICH = ("the first", "the second", "the last one")


def _repository(folder: Path) -> None:
    folder.mkdir(parents=True)
    files = {"walk.py": CODE, "again.py": CODE, "run.py": CODE.replace("walk", "run"), "x.csv": "1"}
    for name, text in (files | {"LICENSE": MIT, "long.js": f"x = '{'a' * 2000}'"}).items():
        (folder / name).write_text(text)


def _files(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "notes.md").write_text("# Notes\n\nWrite to ana@example.org about the llamas.\n")
    (folder / "page.html").write_text("<html><body><h1>Wool</h1><p>It is warm and light.</p></body></html>")
    (folder / "copy.md").write_text("# Notes\n\nWrite to ana@example.org about the llamas.\n")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 broken")


@pytest.fixture(scope="module")
def made(sources: dict[str, SourceConfig], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """By this process, from which no way leads into a network."""
    folder = tmp_path_factory.mktemp("corpus")
    connect = socket.socket.connect

    def within(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX, f"a recipe asks {address}"
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", None)
        patch.setattr(socket.socket, "connect", within)
        return folder, make_corpus(folder, sources, executor=ExecutorConfig(workers=1))


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The documents' files, and the accounts."""
    files = [path for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(files) if p.name != "writer.lock"}


@pytest.mark.parametrize("kind", KEPT)
def test_every_document_is_kept_or_counted_with_its_reason(made: Made, kind: str) -> None:
    ledger = made[1][kind]
    dropped = {reason: amount.documents for reason, amount in ledger.dropped.items()}
    assert (ledger.kept.documents, dropped) == (KEPT[kind], DROPPED[kind])
    assert ledger.read.documents == ledger.kept.documents + sum(dropped.values())


@pytest.mark.parametrize("kind", KEPT)
def test_every_document_says_where_it_comes_from(made: Made, kind: str) -> None:
    rows = [row for path in sorted((made[0] / kind).iterdir()) for row in read_rows(path)]
    assert len(rows) == len({row["id"] for row in rows}) == KEPT[kind]
    for row in rows:
        assert row["source"] == kind
        assert row["text"].strip()
        assert row["origin"]
        assert row["steps"]


ORDER = {
    "commoncrawl": [
        *("text by resiliparse", "shortest", "repeated paragraphs (ccnet)", "language 0.5"),
        *("perplexity", "classifier 0.25"),
    ],
    "c4": ["text by resiliparse", "c4-code", "language en 0.99", "repeated paragraphs (c4-code)"],
    "github": ["exact duplicates", "code"],
    "wikipedia": ["wikitext"],
    "books": ["gutenberg", "near duplicates 0.8 0.9"],
    "arxiv": ["latex"],
    "stackexchange": ["posts"],
}


@pytest.mark.parametrize("kind", ORDER)
def test_the_steps_stand_in_llamas_order_with_its_thresholds(monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    monkeypatch.setattr(recipes, "Language", lambda wanted, least: named(" ".join(["language", *wanted, f"{least}"])))
    monkeypatch.setattr(recipes, "ByPerplexity", lambda folder, keep: named("perplexity"))
    monkeypatch.setattr(recipes, "ByClassifier", lambda folder, least: named(f"classifier {least}"))
    monkeypatch.setattr(
        recipes, "NearDuplicates", lambda *shares: named(" ".join(map(str, ["near duplicates", *shares])))
    )
    models = {"perplexity": Path("lm"), "classifier": Path("c")} if kind == "commoncrawl" else {}
    steps = build_recipe(SourceConfig(kind=kind, paths=(Path("x"),), **models)).steps
    assert [step.name for step in steps] == ORDER[kind]


def named(name: str) -> Each:
    return Each(name, lambda document: document)


def test_private_data_of_ones_own_files_is_marked(made: Made) -> None:
    texts = [row["text"] for path in (made[0] / "files").iterdir() for row in read_rows(path)]
    assert any("Write to <EMAIL> about" in text for text in texts)


@pytest.mark.slow  # test_engine.py has the same of one recipe
def test_two_workers_make_the_same_bytes(made: Made, sources: dict[str, SourceConfig], tmp_path: Path) -> None:
    make_corpus(tmp_path / "two", sources, executor=ExecutorConfig(workers=2))
    assert bytes_of(tmp_path / "two") == bytes_of(made[0])


@pytest.mark.slow  # likewise
def test_a_killed_run_is_resumed_with_the_same_bytes(
    made: Made, sources: dict[str, SourceConfig], tmp_path: Path
) -> None:
    lines = []
    for name, source in sources.items():
        paths = json.dumps([str(path) for path in source.paths])
        lines.append(f'[sources.{name}]\nkind = "{name}"\npaths = {paths}')
    (tmp_path / "corpus.toml").write_text("\n".join(lines))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "arriero", "corpus", "run", str(out), "--config", str(tmp_path / "corpus.toml")]
    for mark in ("arxiv/ledger.json", "commoncrawl/phase-0", "stackexchange"):
        child = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < until and not (out / ".run" / mark).exists():
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    make_corpus(out, sources, executor=ExecutorConfig(workers=1))
    assert bytes_of(out) == bytes_of(made[0])


def test_a_finished_corpus_is_left_as_it_is(made: Made, sources: dict[str, SourceConfig]) -> None:
    before = bytes_of(made[0])
    assert make_corpus(made[0], sources, executor=ExecutorConfig(workers=1)) == made[1]
    assert bytes_of(made[0]) == before


def test_another_recipe_is_refused_and_told(made: Made, sources: dict[str, SourceConfig]) -> None:
    other = SourceConfig(kind="books", paths=sources["books"].paths, near_duplicates=0.5)
    told = r"source 'books' was begun with other settings: source\.near_duplicates was not set, is 0\.5"
    with pytest.raises(ArrieroError, match=told):
        make_corpus(made[0], {"books": other})
    with pytest.raises(ArrieroError, match=r"format was 'jsonl\.zst', is 'jsonl'"):
        make_corpus(made[0], {"books": sources["books"]}, "jsonl")


def test_changed_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("A book. " * 9)
    source = {"books": SourceConfig(kind="books", paths=(tmp_path / "raw",))}
    make_corpus(tmp_path / "out", source, executor=ExecutorConfig(workers=1))
    (tmp_path / "raw" / "b.txt").write_text("Another.")
    with pytest.raises(ArrieroError, match=r"begun with other files: 'b\.txt' is new"):
        make_corpus(tmp_path / "out", source)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "at least one source"),
        ({"../x": SourceConfig(kind="books", paths=(Path("x"),))}, "a name of letters"),
        ({"x": SourceConfig(kind="books", paths=(Path("gone"),))}, "no such file or folder: gone"),
    ],
)
def test_bad_sources_are_told_before_anything_is_written(
    tmp_path: Path, sources: dict[str, SourceConfig], message: str
) -> None:
    with pytest.raises(ArrieroError, match=message):
        make_corpus(tmp_path / "out", sources)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ArrieroError, match="is not empty and holds no corpus"):
        make_corpus(tmp_path, {"x": SourceConfig(kind="books", paths=(tmp_path / "mine.txt",))})
