"""JSON Lines and Parquet: a bad line costs itself alone."""

import bz2
import gzip
import json
from pathlib import Path

import pytest

from arriero.common.errors import FormatError
from arriero.corpus import jsonl
from arriero.corpus.jsonl import read_jsonl, read_pages

LINES: dict[bytes, str] = {
    b'{"text": "one", "url": "http://x", "timestamp": "2020", "license": "MIT"}': "one",
    b'{"text": "caf\xe9"}': "utf-8: invalid",
    b'{"text": "two"': "json: broken line",
    b"[1, 2]": "json: no object",
    b'{"content": "x"}': "json: no text in its field",
    b'{"text": 5}': "json: no text in its field",
    b'{"text": ""}': "empty",
    b'{"text": "a\\u0000b"}': "nul bytes",
    b'{"text": "a\x00b"}': "nul bytes",
    b"[" * 100_000: "json: broken line",
    '{"text": "é\u2028ü"}'.encode(): "é\u2028ü",
    b'{"text": "a\\ud800b"}': "json: half a character (a lone surrogate)",
    b'{"text": "a", "url": "http://\\uDFFF"}': "json: half a character (a lone surrogate)",
    b'{"text": "\\ud83e\\udd99"}': "🦙",
}


def told(path: Path, **options: str) -> list[str]:
    return [document.dropped or document.text for document in read_jsonl(path, "x", **options)]


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
def test_each_line_is_judged_by_itself(tmp_path: Path, suffix: str) -> None:
    data = b"\n".join(LINES) + b"\n\n  \n"
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[suffix](data))
    assert told(path) == list(LINES.values())


def test_address_and_licence_are_kept(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(next(iter(LINES)))
    (document,) = read_jsonl(tmp_path / "x.jsonl", "web/x.jsonl")
    assert (document.id, document.origin, document.licence) == ("web/x.jsonl#1", "http://x", "MIT")
    assert document.metadata == {"timestamp": "2020"}


def test_a_line_beyond_the_limit_is_read_over_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_BYTES", 100)
    monkeypatch.setattr(jsonl, "_PIECE", 30)
    long = json.dumps({"text": "x" * 1000})
    (tmp_path / "x.jsonl").write_text(f'{{"text": "a"}}\n{long}\n{{"text": "b"}}\n{long}')
    assert told(tmp_path / "x.jsonl") == ["a", "json: longer than 64 MiB", "b", "json: longer than 64 MiB"]


def test_pages_and_rows_beyond_the_limit_are_dropped_by_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    monkeypatch.setattr(jsonl, "MAX_BYTES", 100)
    (tmp_path / "x.html").write_text("x" * 101)
    assert [document.dropped for document in read_pages(tmp_path / "x.html", "x")] == ["html: longer than 64 MiB"]
    parquet.write_table(pyarrow.table({"text": ["a", "x" * 101, "b"]}), tmp_path / "x.parquet")
    assert told(tmp_path / "x.parquet") == ["a", "parquet: longer than 64 MiB", "b"]


def test_half_a_gzip_gives_the_lines_before_and_says_so(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(json.dumps({"text": f"line {n * 7919}"}).encode() + b"\n" for n in range(5000)))
    (tmp_path / "x.json.gz").write_bytes(data[: len(data) // 2])
    found = told(tmp_path / "x.json.gz")
    assert len(found) > 1000
    assert found[:2] == ["line 0", "line 7919"]
    assert found[-1] == "json: the file is cut off or damaged from here on"
    assert all(text.startswith("line") for text in found[:-1])


def test_another_field_can_hold_the_text(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"content": "x"}')
    assert told(tmp_path / "x.jsonl", field="content") == ["x"]


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [{"text": "a", "url": "http://a"}, {"text": None, "url": None}, {"text": " ", "url": "http://c"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert told(tmp_path / "x.parquet") == ["a", "json: no text in its field", "empty"]
    (tmp_path / "y.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:100])
    with pytest.raises(FormatError, match="no Parquet file, or damaged"):
        told(tmp_path / "y.parquet")


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_one_invalid_byte_costs_its_own_row_of_a_parquet_file_alone(tmp_path: Path, kind: str) -> None:
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    data = pyarrow.array([b"one", b"caf\xe9", None, b"two"], pyarrow.large_binary() if "large" in kind else None)
    texts = pyarrow.Array.from_buffers(getattr(pyarrow, kind)(), 4, data.buffers())
    parquet.write_table(pyarrow.table({"text": texts, "url": ["http://a", "b", "c", None]}), tmp_path / "x.parquet")
    assert told(tmp_path / "x.parquet") == ["one", "utf-8: invalid", "json: no text in its field", "two"]
    assert next(read_jsonl(tmp_path / "x.parquet", "x")).origin == "http://a"


def test_other_columns_of_a_parquet_file_are_no_text(tmp_path: Path) -> None:
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    coded = pyarrow.array(["a", "b", "a"]).dictionary_encode()
    parquet.write_table(pyarrow.table({"n": [1, 2, 3], "coded": coded, "list": [["x"]] * 3}), tmp_path / "x.parquet")
    for field in ("text", "n", "list"):
        assert told(tmp_path / "x.parquet", field=field) == ["json: no text in its field"] * 3
    assert told(tmp_path / "x.parquet", field="coded") == ["a", "b", "a"]


def test_an_html_file_is_a_page(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_bytes(b'<meta charset="latin1">caf\xe9')
    (document,) = read_pages(tmp_path / "x.html", "x.html")
    assert (document.text, document.metadata["content_type"]) == ('<meta charset="latin1">café', "text/html")
    (tmp_path / "y.html").write_bytes(b"")
    assert [document.dropped for document in read_pages(tmp_path / "y.html", "y")] == ["empty"]
