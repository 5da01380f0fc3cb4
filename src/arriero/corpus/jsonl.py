"""Documents out of JSON Lines and Parquet, as C4 and other corpora are published, and out of HTML files.

A line is read as bytes and judged by itself: one that is no UTF-8, no JSON, or too long costs no other.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from arriero.common.compression import DAMAGE, open_bytes
from arriero.common.errors import FormatError, require
from arriero.corpus.decoding import decode_page, decode_utf8, why_unusable
from arriero.corpus.document import MAX_BYTES, Document

_KEPT = ("title", "timestamp", "date", "language")
"""Fields that become metadata."""
_SEARCHED = ("url", "source_url", "license", "licence", *_KEPT)
_ROWS = 64
"""Rows of a Parquet file at a time."""
_PIECE = 1 << 20


def read_jsonl(path: Path, name: str, field: str = "text") -> Iterator[Document]:
    """A document for each line that is not blank; ids end in the line's number.

    Args:
        field: holds the text. `url` or `source_url`, `license` or `licence`, and some others are taken too if they
            are there.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path, name, field)
        return
    with open_bytes(path) as (content, _):
        number = 0
        try:
            for number, line in enumerate(bounded_lines(content), 1):
                document = Document(id=f"{name}#{number}", text="", origin=str(path))
                if line is None:
                    yield document.drop("json: longer than 64 MiB")
                elif line.strip():
                    yield _parse(document, line, field)
        except (*DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            cut = Document(id=f"{name}#{number + 1}", text=str(error), origin=str(path))
            yield cut.drop("json: the file is cut off or damaged from here on")


def read_pages(path: Path, name: str, field: str = "text") -> Iterator[Document]:
    """C4's inputs: an HTML file is one page, raw; any other file is read as `read_jsonl` does."""
    if path.suffix.lower() not in (".html", ".htm", ".xhtml"):
        yield from read_jsonl(path, name, field)
        return
    document = Document(id=f"{name}#", text="", origin=str(path), metadata={"content_type": "text/html"})
    if path.stat().st_size > MAX_BYTES:
        yield document.drop("html: longer than 64 MiB")
        return
    data = path.read_bytes()
    text = decode_page(data, None)
    reason = why_unusable(data) or ("encoding: not as declared" if text is None else None)
    yield document.drop(reason) if reason else document.with_text(text or "")


def bounded_lines(content: IO[bytes]) -> Iterator[bytes | None]:
    """The lines; None for one that is too long, which is read over without being held."""
    while line := content.readline(MAX_BYTES + 1):
        if len(line) <= MAX_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = content.readline(_PIECE)
        yield None


def _parse(document: Document, line: bytes, field: str) -> Document:
    text, reason = decode_utf8(line)
    if reason:
        return document.drop(reason)
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return document.drop("json: broken line")
    if ("\\ud" in text or "\\uD" in text) and not _encodable(row):
        return document.drop("json: half a character (a lone surrogate)")
    return _from_row(document, row, field)


def _encodable(row: Any) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_row(document: Document, row: Any, field: str) -> Document:
    if not isinstance(row, dict):
        return document.drop("json: no object")
    text = row.get(field)
    if not isinstance(text, str):
        return document.drop("json: no text in its field")
    origin = row.get("url") or row.get("source_url")
    licence = row.get("license") or row.get("licence")
    made = Document(
        id=document.id,
        text=text,
        origin=origin if isinstance(origin, str) else document.origin,
        licence=licence if isinstance(licence, str) else None,
        metadata={key: row[key] for key in _KEPT if isinstance(row.get(key), str)},
    )
    if "\x00" in text:
        return made.with_text("").drop("nul bytes")
    return made if text.strip() else made.drop("empty")


def _read_parquet(path: Path, name: str, field: str) -> Iterator[Document]:
    parquet = require("pyarrow.parquet", extra="corpus", purpose="reading a Parquet file")
    pyarrow = require("pyarrow", extra="corpus", purpose="reading a Parquet file")
    number = 0
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            columns = [name for name in (field, *_SEARCHED) if name in file.schema_arrow.names]
            for batch in file.iter_batches(_ROWS, columns=columns, use_threads=False):
                values = [_strings(pyarrow, column) for column in batch.columns]
                for row in zip(*values, strict=True) if values else [()] * batch.num_rows:
                    number += 1
                    document = Document(id=f"{name}#{number}", text="", origin=str(path))
                    yield _from_bytes(document, dict(zip(batch.schema.names, row, strict=True)), field)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if number == 0:
            raise FormatError(f"{path} is no Parquet file, or damaged: {' '.join(str(error).split())}") from error
        cut = Document(id=f"{name}#{number + 1}", text=str(error), origin=str(path))
        yield cut.drop("parquet: the file is cut off or damaged from here on")


def _strings(pyarrow: Any, column: Any) -> list[bytes | None]:
    """A column's strings, as bytes: what is no UTF-8 costs its row alone. All None if it holds something else."""
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        return [None] * len(column)
    binary = pyarrow.large_binary() if pyarrow.types.is_large_string(kind) else pyarrow.binary()
    values: list[bytes | None] = column.cast(binary).to_pylist()
    return values


def _from_bytes(document: Document, row: dict[str, bytes | None], field: str) -> Document:
    if len(row.get(field) or b"") > MAX_BYTES:
        return document.drop("parquet: longer than 64 MiB")
    try:
        return _from_row(document, {name: value and value.decode() for name, value in row.items()}, field)
    except UnicodeDecodeError:
        return document.drop("utf-8: invalid")
