"""Documents in files: every form gives them back, and the same documents give the same bytes."""

import json
from pathlib import Path

import pytest

from arriero.corpus.document import Document
from arriero.corpus.rows import from_row, read_rows, read_texts, to_row, write_rows

DOCUMENTS = [
    Document(
        id="a#1", text="Añjou\u2028\n\t", origin="https://x.org/ä", licence="MIT", metadata={"title": "Ö", "n": 3}
    ),
    Document(id="a#2", text='"quoted"', origin="/path", metadata={}),
]
ROWS = [to_row(document, "web", ("c4", "language")) for document in DOCUMENTS]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_rows_come_back_and_bytes_repeat(tmp_path: Path, kind: str) -> None:
    for name in ("one", "two"):
        write_rows(tmp_path / name / f"x.{kind}", ROWS, kind)  # type: ignore[arg-type]
    assert [from_row(row) for row in read_rows(tmp_path / "one" / f"x.{kind}")] == DOCUMENTS
    assert (tmp_path / "one" / f"x.{kind}").read_bytes() == (tmp_path / "two" / f"x.{kind}").read_bytes()
    assert list(read_texts(tmp_path / "one")) == [document.text for document in DOCUMENTS]


def test_parquet_has_a_column_for_each_field(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_rows(tmp_path / "x.parquet", ROWS, "parquet")
    table = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row | {"metadata": json.loads(row["metadata"])} for row in table] == ROWS
    assert list(read_texts(tmp_path)) == [document.text for document in DOCUMENTS]


def test_provenance_is_in_each_row() -> None:
    assert ROWS[0]["source"] == "web"
    assert ROWS[0]["steps"] == ["c4", "language"]
    assert (ROWS[0]["origin"], ROWS[0]["licence"]) == ("https://x.org/ä", "MIT")


def test_a_line_separator_of_unicode_ends_no_line(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", ROWS, "jsonl")
    assert len((tmp_path / "x.jsonl").read_bytes().splitlines()) == 2
