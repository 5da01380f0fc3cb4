"""Books: what is Gutenberg's goes, what is the author's stays."""

import gzip
from pathlib import Path

import pytest

from arriero.corpus import books
from arriero.corpus.books import PUBLIC_DOMAIN, clean_book, read_book
from arriero.corpus.document import Document

HEADER = "The Project Gutenberg EBook of X\r\n\r\nTitle: X of Y\r\nAuthor: Zoë Z\r\nCharacter set encoding: {}\r\n\r\n"
START = "*** START OF THIS PROJECT GUTENBERG EBOOK X ***\r\n"
END = "*** END OF THIS PROJECT GUTENBERG EBOOK X ***\r\nlicence text\r\n"


WRONG = "books: not in the encoding that its header declares"


def clean(text: str) -> Document:
    (document,) = clean_book()([Document(id="x", text=text, origin="o")])
    return document


@pytest.mark.parametrize("name", ["1342-0.txt", "1342.txt"])
def test_a_real_book_begins_with_its_title(data_folder: Path, name: str) -> None:
    (raw,) = read_book(data_folder / "corpus" / "books" / name, name)
    (document,) = clean_book()([raw])
    assert document.text.startswith("PRIDE AND PREJUDICE\n\nBy Jane Austen\n\n\n\nChapter 1")
    assert document.metadata == {"title": "Pride and Prejudice", "author": "Jane Austen", "language": "en"}
    assert document.licence == PUBLIC_DOMAIN
    assert "Gutenberg" not in document.text
    assert "\r" not in document.text


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (START, END),
        (
            "*** START OF THE PROJECT GUTENBERG EBOOK A TITLE THAT\r\nGOES ON ***\r\n",
            "End of the Project Gutenberg EBook of X\r\n",
        ),
        ("*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\r\n", "End of Project Gutenberg's X\r\n"),
        (START, ""),
    ],
)
def test_marks_of_every_age_are_known(start: str, end: str) -> None:
    body = "\r\n\r\nProduced by A B and\r\nothers\r\n\r\n\r\nChapter 1\r\n\r\nText.\r\n\r\n"
    document = clean(f"{HEADER.format('ASCII')}{start}{body}{end}")
    assert document.text == "Chapter 1\n\nText."
    assert document.metadata == {"title": "X of Y", "author": "Zoë Z"}


def test_a_book_of_another_house_is_kept_whole() -> None:
    assert clean("Chapter 1\r\nText produced by hand.\r\n").text == "Chapter 1\nText produced by hand."


def test_a_copyrighted_one_is_not_called_free() -> None:
    assert clean(f"This is a COPYRIGHTED Project Gutenberg eBook\r\n{START}Text").licence is None


def test_nothing_between_the_marks_is_dropped() -> None:
    assert clean(f"{START}\r\n{END}").dropped == "gutenberg: nothing between the marks"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("Zoë".encode(), "Zoë"),
        (b"\xef\xbb\xbfZoe", "Zoe"),
        (HEADER.format("ISO-8859-1").encode("latin-1") + b"caf\xe9", None),
        (HEADER.format("ISO Latin-1").encode("latin-1") + b"\x81", None),
        *((HEADER.format(name).encode("latin-1"), WRONG) for name in ("ASCII", "nonsense", "hex", "unicode_escape")),
        (b"caf\xe9", "utf-8: invalid"),
        (b"", "empty"),
        (b"a\x00b", "nul bytes"),
    ],
)
def test_the_encoding_is_utf8_or_declared(tmp_path: Path, data: bytes, expected: str | None) -> None:
    (tmp_path / "x.txt").write_bytes(data)
    (document,) = read_book(tmp_path / "x.txt", "x.txt")
    assert (document.dropped or document.text) == (expected or data.decode("latin-1"))


@pytest.mark.parametrize(
    ("name", "codec", "words"),
    [
        ("ISO-8859-1", "cp1252", "“é”"),
        ("CP-1252", "cp1252", "“é”"),
        ("ISO-8859-2", "iso8859-2", "łőž"),
        ("Windows-1251", "cp1251", "Лев"),
        ("Big5", "big5", "書"),
    ],
)
def test_each_declared_encoding_is_read_as_itself(tmp_path: Path, name: str, codec: str, words: str) -> None:
    text = HEADER.format(name).replace("Zoë", "Zoe") + words
    (tmp_path / "x.txt").write_bytes(text.encode(codec))
    (document,) = read_book(tmp_path / "x.txt", "x.txt")
    assert document.text == text


def test_credits_go_but_never_the_book() -> None:
    made_by = "Produced by A B\r\nand C\r\n \r\nE-text prepared by D\r\n\r\n"
    assert clean(f"{START}{made_by}Chapter 1\r\nText").text == "Chapter 1\nText"
    assert clean(f"{START}Produced by A\r\n" + "line of a book\r\n" * 500).text.endswith("book")


def test_a_book_without_end_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "MAX_BYTES", 1000)
    (tmp_path / "x.txt").write_bytes(b"x" * 1001)
    (tmp_path / "y.txt.gz").write_bytes(gzip.compress(b"x" * 5000))
    (tmp_path / "z.txt").write_bytes(b"x" * 1000)
    found = [next(read_book(tmp_path / name, name)).dropped for name in ("x.txt", "y.txt.gz", "z.txt")]
    assert found == ["books: longer than 64 MiB"] * 2 + [None]


def test_half_a_gzip_is_told(tmp_path: Path) -> None:
    data = gzip.compress(b"text " * 1000)
    (tmp_path / "x.txt.gz").write_bytes(data[: len(data) // 2])
    assert [each.dropped for each in read_book(tmp_path / "x.txt.gz", "x")] == ["books: the file is cut off or damaged"]
