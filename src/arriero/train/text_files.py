"""Documents out of files: JSONL, Parquet and plain text, compressed or not, in a fixed order and in bounded memory.

Files are read as blocks of undecoded documents. Decompression and the search for line ends cannot be shared among
processes, and what follows (JSON, UTF-8, tokenizing) can: so a block is small, knows where it comes from, and is
decoded by whoever gets it.
"""

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from arriero.common.compression import DAMAGE, SUFFIXES, open_bytes
from arriero.common.errors import ArrieroError, FormatError, NotFoundError, did_you_mean, require

FileFormat = Literal["jsonl", "parquet", "text"]
KINDS: dict[str, FileFormat] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".txt": "text", ".text": "text",
    ".md": "text",
}  # fmt: skip
"""What a suffix means, before a suffix of compression."""
BLOCK_BYTES, BLOCK_DOCUMENTS = 1 << 20, 4096
"""A block ends at the first of both."""
MAX_BYTES = 1 << 26
"""The longest document, 64 MiB: ten times the longest novel, and all that a process holds beside a block."""


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How documents are found in files."""

    format: Literal["auto", "jsonl", "parquet", "text"] = "auto"
    """Read every file as this; auto goes by the suffix, and passes over files of other kinds in folders."""
    field: str = "text"
    """The field of JSON objects, or the column of Parquet files, that holds the text."""
    split: Literal["none", "paragraphs", "lines"] = "none"
    """What is a document in a plain text file: all of it, each run of lines between blank ones, or each line."""
    separator: str | None = None
    """A line of plain text files that stands between documents, such as <|endoftext|>; instead of --split."""

    def __post_init__(self) -> None:
        if self.separator is not None and (self.split != "none" or not self.separator.strip()):
            raise ArrieroError("--separator expects a line that is not blank, and no --split beside it")


class Block(NamedTuple):
    """Some neighbouring documents of one file, as bytes."""

    path: str
    file: int
    """The number of the file."""
    first: int
    """The number, in its file, of the first document; blank lines of JSONL files count."""
    documents: list[bytes]
    lines: list[int]
    """The line that each begins in, from 1; the row, in a Parquet file."""
    format: FileFormat
    read: int
    """Bytes of the file that are read so far."""


def find_files(paths: Iterable[Path], options: TextOptions) -> tuple[Path, ...]:
    """The files that `paths` (files, folders with all below them, patterns with `*`) name, each once, in fixed order.

    The order is that of `paths`, and within a folder or a pattern that of the names. Hidden files are passed over.

    Raises:
        NotFoundError: a path that does not exist, or nothing to read.
        FormatError: a file, named itself, of a kind that is not known.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts))
            found |= dict.fromkeys(sorted(p for p in inside if p.is_file() and _format(p, options) is not None))
        elif path.is_file():
            if _format(path, options) is None:
                kinds = ", ".join(KINDS)
                raise FormatError(f"{path}: expected a file that ends in {kinds} (or one of these and "
                                  f"{', '.join(SUFFIXES)}); --format reads any file")  # fmt: skip
            found[path] = None
        elif matches := [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]:  # noqa: PTH207 - ** and *
            found |= dict.fromkeys(p for p in matches if p.is_file() and _format(p, options) is not None)
        else:
            raise NotFoundError(f"no such file or folder: {path}")
    if not found:
        raise NotFoundError(f"nothing to read in {', '.join(map(str, paths))}: no file that ends in {', '.join(KINDS)}")
    return tuple(found)


def read_blocks(files: Sequence[Path], options: TextOptions, start: tuple[int, int] = (0, 0)) -> Iterator[Block]:
    """All documents of `files` from position `start` on: (number of the file, number of the document in it).

    Raises:
        FormatError: a file is damaged, or holds a document beyond `MAX_BYTES`; the message says where.
        MissingExtraError: a Parquet or Zstandard file, without the package that reads it.
    """
    for number in range(start[0], len(files)):
        path, skip = files[number], start[1] if number == start[0] else 0
        kind = _format(path, options)
        assert kind is not None
        records = _read_parquet(path, options.field, skip) if kind == "parquet" else _read_text(path, kind, options)
        yield from _group(records, str(path), number, skip, kind)


def decode(block: Block, field: str, start: int = 0) -> Iterator[tuple[int, str]]:
    """(index in the block, text) of a block's documents from index `start` on; blank lines of JSONL are passed over.

    Raises:
        FormatError: a document is no UTF-8, no JSON, or has no text; the message names file and line.
    """
    for index in range(start, len(block.documents)):
        content = block.documents[index]
        if block.format == "jsonl" and not content.strip():
            continue
        try:
            text = content.decode() if block.format != "jsonl" else _field(json.loads(content), field)
        except UnicodeDecodeError as error:
            line = block.lines[index] + content.count(b"\n", 0, error.start)
            raise FormatError(f"{block.path}: line {line} is no UTF-8 text: convert it, e.g. with iconv") from error
        except (ValueError, RecursionError) as error:
            what = str(error) if isinstance(error, ArrieroError) else f"expected a JSON object, got no JSON ({error})"
            raise FormatError(f"{block.path}: line {block.lines[index]}: {what}") from error
        yield index, text


def read_texts(paths: Iterable[Path], options: TextOptions | None = None) -> Iterator[str]:
    """The documents' texts, one after the other, in this process."""
    options = options or TextOptions()
    for block in read_blocks(find_files(paths, options), options):
        yield from (text for _, text in decode(block, options.field))


class _Record(NamedTuple):
    content: bytes
    line: int
    read: int


def _format(path: Path, options: TextOptions) -> FileFormat | None:
    if options.format != "auto":
        return options.format
    inner = path.with_suffix("") if path.suffix in SUFFIXES else path
    kind = KINDS.get(inner.suffix)
    return None if kind == "parquet" and inner is not path else kind


def _field(row: Any, field: str) -> str:
    if not isinstance(row, dict):
        raise ArrieroError(f"expected a JSON object with the field '{field}', got {type(row).__name__}")
    if field not in row:
        keys = ", ".join(map(str, list(row)[:10])) or "no field"
        raise ArrieroError(
            f"expected the field '{field}', found {keys}{did_you_mean(field, row)}; --field names another"
        )
    text = row[field]
    if not isinstance(text, str):
        raise ArrieroError(f"field '{field}': expected a text, got {type(text).__name__}")
    return text


def _group(records: Iterator[_Record], path: str, file: int, skip: int, kind: FileFormat) -> Iterator[Block]:
    """Blocks of records; the first `skip` documents are left out (a Parquet reader has left them out itself)."""
    number = skip if kind == "parquet" else 0
    block = Block(path, file, skip, [], [], kind, 0)
    size = 0
    for record in records:
        number += 1
        if number <= skip:
            continue
        block.documents.append(record.content)
        block.lines.append(record.line)
        size += len(record.content)
        if size >= BLOCK_BYTES or len(block.documents) >= BLOCK_DOCUMENTS:
            yield block._replace(read=record.read)
            block, size = Block(path, file, number, [], [], kind, 0), 0
    yield block._replace(read=Path(path).stat().st_size)


def _read_text(path: Path, kind: FileFormat, options: TextOptions) -> Iterator[_Record]:
    lines = _Lines(path)
    with open_bytes(path) as (content, file):
        if kind == "jsonl" or options.split == "lines":
            for number, line in lines.read(content):
                if kind == "jsonl" or line.strip():
                    yield _Record(line.rstrip(b"\r\n"), number, file.tell())
            return
        separator = None if options.separator is None else options.separator.strip().encode()
        held: list[bytes] = []
        first = size = 0
        for number, line in lines.read(content):
            bare = line.strip() if separator is not None or options.split == "paragraphs" else None
            if bare is not None and bare == (separator or b""):
                if held:
                    yield _Record(b"".join(held).rstrip(b"\r\n"), first, file.tell())
                held, size = [], 0
                continue
            first = number if not held else first
            held.append(line)
            size += len(line)
            lines.check_size(size, first)
        whole = separator is None and options.split == "none"
        if held:
            yield _Record(b"".join(held) if whole else b"".join(held).rstrip(b"\r\n"), first, file.tell())


class _Lines:
    """The lines of a file, with their numbers; damage becomes an error that says how far the file is good."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, content: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        number = 0
        while True:
            try:
                line = content.readline(MAX_BYTES + 1)
            except DAMAGE as error:
                raise self._damage(number, error) from error
            except OSError as error:
                if error.errno is not None:
                    raise
                raise self._damage(number, error) from error
            if not line:
                return
            number += 1
            self.check_size(len(line), number)
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line

    def check_size(self, size: int, line: int) -> None:
        if size > MAX_BYTES:
            raise FormatError(
                f"{self._path}: the document in line {line} is longer than {MAX_BYTES >> 20} MiB: "
                "cut it, e.g. with --split or --separator"
            )

    def _damage(self, line: int, error: Exception) -> FormatError:
        return FormatError(f"{self._path} is truncated or corrupt after line {line}: {error}")


def _read_parquet(path: Path, field: str, skip: int) -> Iterator[_Record]:
    """One column, a few hundred rows at a time; row groups before document `skip` are not read."""
    parquet = require("pyarrow.parquet", extra="train", purpose="reading a Parquet file")
    size = path.stat().st_size
    row = 0
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                shown = ", ".join(columns[:10])
                raise FormatError(f"{path}: expected the column '{field}', found {shown}"
                                  f"{did_you_mean(field, columns)}; --field names another")  # fmt: skip
            rows, groups = file.metadata.num_rows, list(range(file.metadata.num_row_groups))
            while groups and row + file.metadata.row_group(groups[0]).num_rows <= skip:
                row += file.metadata.row_group(groups.pop(0)).num_rows
            for batch in file.iter_batches(256, row_groups=groups, columns=[field], use_threads=False):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if row <= skip:
                        continue
                    yield _Record(_text_bytes(text, path, row, field), row, size * row // max(1, rows))
    except (require("pyarrow", extra="train", purpose="reading a Parquet file").ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FormatError(f"{path} is truncated or corrupt after row {row}: {' '.join(str(error).split())}") from error


def _text_bytes(text: Any, path: Path, row: int, field: str) -> bytes:
    if not isinstance(text, str):
        raise FormatError(f"{path}: row {row}: column '{field}': expected a text, got {type(text).__name__}")
    content = text.encode()
    if len(content) > MAX_BYTES:
        raise FormatError(f"{path}: row {row}: the document is longer than {MAX_BYTES >> 20} MiB: cut it")
    return content
