"""Documents in files: JSONL, plain or compressed, or Parquet, in the form that `arriero tokenize` and others read.

A row has `text`, `id`, `source`, `origin` (a URL or path), `licence`, `steps` (those it passed) and `metadata`.
The same documents give the same bytes.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from arriero.common.compression import open_bytes
from arriero.common.errors import require
from arriero.common.files import atomic_file
from arriero.corpus.document import Document

RowFormat = Literal["jsonl.zst", "jsonl.gz", "jsonl", "parquet"]
ZSTD_LEVEL, GZIP_LEVEL = 3, 6


def to_row(document: Document, source: str, steps: Sequence[str]) -> dict[str, Any]:
    """A document and its provenance."""
    return {
        "text": document.text,
        "id": document.id,
        "source": source,
        "origin": document.origin,
        "licence": document.licence,
        "steps": list(steps),
        "metadata": dict(document.metadata),
    }


def from_row(row: dict[str, Any]) -> Document:
    """The document of a row."""
    names = ("id", "text", "origin", "licence", "metadata")
    return Document(**{name: row[name] for name in names})


def write_rows(path: Path, rows: Iterable[dict[str, Any]], kind: RowFormat) -> None:
    """Write a file of rows, whole or not at all.

    Raises:
        MissingExtraError: Zstandard or Parquet, without the package for it.
    """
    with atomic_file(path) as aside:
        if kind == "parquet":
            _write_parquet(aside, list(rows))
            return
        with aside.open("wb") as file, _compressed(file, kind) as content:
            for row in rows:
                content.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file that `write_rows` wrote."""
    with open_bytes(path) as (content, _):
        for line in content:
            yield json.loads(line)


def read_texts(folder: Path) -> Iterator[str]:
    """The texts of a source, from all its files."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".parquet":
            parquet = require("pyarrow.parquet", extra="corpus", purpose="reading a Parquet file")
            for batch in parquet.ParquetFile(path).iter_batches(256, columns=["text"]):
                yield from batch.column(0).to_pylist()
        else:
            yield from (row["text"] for row in read_rows(path))


def _compressed(file: IO[bytes], kind: RowFormat) -> IO[bytes]:
    if kind == "jsonl.zst":
        zstandard = require("zstandard", extra="corpus", purpose="writing a .zst file")
        writer: IO[bytes] = zstandard.ZstdCompressor(level=ZSTD_LEVEL).stream_writer(file, closefd=False)
        return writer
    if kind == "jsonl.gz":
        return gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0)  # type: ignore[return-value]
    return open(file.fileno(), "wb", closefd=False)


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    """Metadata is a JSON text there: its fields differ from document to document."""
    pyarrow = require("pyarrow", extra="corpus", purpose="writing a Parquet file")
    parquet = require("pyarrow.parquet", extra="corpus", purpose="writing a Parquet file")
    fields: list[tuple[str, Any]] = [(name, pyarrow.string()) for name in ("text", "id", "source", "origin", "licence")]
    fields += [("steps", pyarrow.list_(pyarrow.string())), ("metadata", pyarrow.string())]
    flat = [row | {"metadata": json.dumps(row["metadata"], ensure_ascii=False)} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(flat, schema=pyarrow.schema(fields)), path, compression="zstd")
