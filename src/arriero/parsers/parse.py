"""A file to a `Document`: which parser reads it, within which limits, and in what form its text comes out.

The suffix says which parser; content that is unmistakably of another kind (a PDF named .txt, a web page named .docx)
wins over it. Whatever goes wrong in a file is a `FormatError` that names it, so that one bad file never ends an
ingest. Text is cleaned here, once for all formats (`arriero.parsers.cleaning`); offsets refer to the result.

Parsing runs in this process. Use `arriero.parsers.isolation` for files from strangers: there a parser that hangs or
crashes takes only its own process with it.
"""

import stat
import warnings
from collections.abc import Callable
from pathlib import Path

from arriero.common.errors import FormatError, MissingExtraError, NotFoundError
from arriero.parsers.archive import office_kind
from arriero.parsers.cleaning import clean
from arriero.parsers.code import read_code, read_python
from arriero.parsers.data import read_json, read_notebook
from arriero.parsers.document import Document, Section
from arriero.parsers.html import read_html
from arriero.parsers.limits import Budget, Parsed, ParseLimits
from arriero.parsers.markdown import read_markdown
from arriero.parsers.pdf import read_pdf
from arriero.parsers.plain import read_rst, read_text
from arriero.parsers.sheets import read_csv, read_xlsx
from arriero.parsers.slides import read_pptx
from arriero.parsers.word import read_docx

Parser = Callable[[bytes, Budget], Parsed]

PARSERS: dict[str, Parser] = {
    "pdf": read_pdf,
    "html": read_html,
    "docx": read_docx,
    "pptx": read_pptx,
    "xlsx": read_xlsx,
    "markdown": read_markdown,
    "rst": read_rst,
    "text": read_text,
    "python": read_python,
    "code": read_code,
    "notebook": read_notebook,
    "json": read_json,
    "csv": read_csv,
}

_BY_FORMAT = {
    "pdf": "pdf",
    "html": "html htm xhtml",
    "docx": "docx",
    "pptx": "pptx",
    "xlsx": "xlsx xlsm",
    "markdown": "md markdown mdx",
    "rst": "rst",
    "text": "txt text log adoc org",
    "python": "py pyi",
    "code": (
        "c h cc cpp cxx hh hpp cu java kt scala go rs rb php swift m js mjs jsx ts tsx vue css scss sh bash zsh ps1 "
        "sql r jl lua pl ex exs erl hs ml clj lisp el f90 tex bib toml yaml yml ini cfg conf proto graphql tf cmake xml"
    ),
    "notebook": "ipynb",
    "json": "json jsonl ndjson",
    "csv": "csv tsv",
}
SUFFIXES: dict[str, str] = {f".{suffix}": kind for kind, suffixes in _BY_FORMAT.items() for suffix in suffixes.split()}
"""Suffix, lower case with its dot, → format."""

_PLAIN_NAMES = "readme license licence copying changelog changes news authors notes todo makefile dockerfile"
NAMES = frozenset(_PLAIN_NAMES.split())
"""Files without a suffix that are read as text, lower case."""

_OFFICE = ("docx", "pptx", "xlsx")
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")
_REFUSED_STARTS = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": (
        "an encrypted Office file or an old binary one (.doc, .xls, .ppt): save it without a password as .docx, .xlsx "
        "or .pptx"
    ),
    b"{\\rtf": "RTF is not supported: save it as .docx or .txt",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"%!PS": "PostScript is not supported: convert it to PDF",
    b"\x89PNG": "an image: only text is read",
    b"\xff\xd8\xff": "an image: only text is read",
    b"GIF8": "an image: only text is read",
}


def parse_file(path: Path, *, name: str | None = None, limits: ParseLimits | None = None) -> Document:
    """Parse one file; the document is called `name`, or as the file is.

    Raises:
        NotFoundError: there is no such file.
        FormatError: it cannot be read, is no ordinary file, is over a limit, broken, encrypted, binary or without text.
        MissingExtraError: the format's library is not installed.
    """
    limits = limits or ParseLimits()
    name = name or path.name
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{name}: not an ordinary file")
        _check_size(name, status.st_size, limits)
        with path.open("rb") as file:
            data = file.read(status.st_size)  # more than that is set aside in memory, read or not
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file") from error
    except MemoryError as error:
        raise FormatError(f"{name}: out of memory for its {status.st_size:,} bytes") from error
    except OSError as error:
        raise FormatError(f"{name}: cannot be read ({error.strerror or error})") from error
    return parse_bytes(name, data, limits=limits)


def parse_bytes(name: str, data: bytes, *, limits: ParseLimits | None = None) -> Document:
    """Parse a file's content; the suffix of `name` tells its format.

    Raises:
        FormatError, MissingExtraError: as `parse_file`.
    """
    limits = limits or ParseLimits()
    _check_size(name, len(data), limits)
    budget = Budget(limits)
    kind = "zip"  # the only content that is opened to tell its format
    try:
        kind = format_of(name, data, budget)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' remarks about a file are no concern of our caller's
            parsed = PARSERS[kind](data, budget)
        sections = _clean_sections(parsed.sections, budget)
    except MissingExtraError:
        raise
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from error
    except ImportError as error:
        raise MissingExtraError(f"reading {kind} files: {error}; pip install 'arriero[rag]' again") from error
    except Exception as error:  # a hostile file makes the libraries raise anything at all
        raise FormatError(f"{name}: broken {kind} file ({_one_line(error)})") from error
    if not sections:
        raise FormatError(f"{name}: no text in it")
    metadata = {key: text for key, value in parsed.metadata.items() if (text := " ".join(clean(value).split()))}
    return Document(name, sections, metadata | {"format": kind})


def format_of(name: str, data: bytes, budget: Budget) -> str:
    """The key of `PARSERS` for a file of this name and content.

    Raises:
        FormatError: empty, or of a kind that no parser reads.
    """
    if not data.strip():
        raise FormatError("empty file")
    for start, reason in _REFUSED_STARTS.items():
        if data.startswith(start):
            raise FormatError(reason)
    by_name = SUFFIXES.get(Path(name).suffix.lower())
    if b"%PDF-" in data[:1024] and (by_name is None or by_name == "pdf" or data.startswith(b"%PDF-")):
        return "pdf"
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return office_kind(data, budget)
    if by_name is None or by_name in (*_OFFICE, "pdf"):
        if data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML_STARTS):
            return "html"
        if by_name is not None:
            raise FormatError(f"not a {by_name.upper()} file, whatever its name says, or cut off at its start")
        return "text"
    return by_name


def _check_size(name: str, size: int, limits: ParseLimits) -> None:
    if size > limits.max_bytes:
        raise FormatError(f"{name}: larger than {limits.max_bytes:,} bytes (limit max_bytes)")


def _clean_sections(sections: list[Section], budget: Budget) -> tuple[Section, ...]:
    """Sections with clean texts and titles; those without text go."""
    kept = []
    for section in sections:
        budget.check()
        text = clean(section.text)
        if text.strip():
            title = clean(section.title) if section.title else None
            kept.append(Section(text, section.page, title or None))
    return tuple(kept)


def _one_line(error: Exception) -> str:
    text = " ".join(clean(str(error)).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
