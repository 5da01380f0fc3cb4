r"""Papers out of arXiv's sources: a tar archive of a paper, a bare `.tex`, a tar of papers (the bulk form), a folder.

A paper is its main file with all that it `\input`s in place, its own styles (`\usepackage`) too. Nothing is unpacked to
disk, and no name in an archive is ever taken for a path outside of it.
"""

import gzip
import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, Self

from arriero.common.compression import DAMAGE, open_bytes
from arriero.corpus.document import MAX_BYTES, Document
from arriero.corpus.latex import drop_comments
from arriero.corpus.paper import NestedTooDeep, TooLong, join

MOST_FILES = 5_000
"""Of a paper."""
_TEX = (".tex", ".ltx", ".latex")
_SOURCES = (*_TEX, ".sty")
_PAPERS = (".gz", ".tgz", ".tar")
_GZIP = b"\x1f\x8b"
_LONGEST_HEADER = 1 << 20
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_BROKEN = (*DAMAGE, tarfile.TarError, OSError, ArithmeticError, LookupError, RecursionError, ValueError)
"""What `tarfile` raises on hostile archives."""
_CUT = "arxiv: the archive is cut off or damaged"
_ARCHIVES = (
    "acc-phys|adap-org|alg-geom|ao-sci|astro-ph|atom-ph|bayes-an|chao-dyn|chem-ph|cmp-lg|comp-gas|cond-mat|cs|dg-ga"
    "|funct-an|gr-qc|hep-ex|hep-lat|hep-ph|hep-th|math|math-ph|mtrl-th|nlin|nucl-ex|nucl-th|patt-sol|physics|plasm-ph"
    "|q-alg|q-bio|quant-ph|solv-int|supr-con"
)
"""In which papers were numbered before April 2007."""
_ARXIV_ID = re.compile(
    rf"(?:^|[/#])(?:arxiv[-_:])?(?:(?P<old>{_ARCHIVES})(?:\.[a-z]{{2}})?/?(?P<number>\d\d(?:0[1-9]|1[0-2])\d{{3}})"
    r"|(?P<new>\d\d(?:0[1-9]|1[0-2])\.\d{4,5}))(?:v\d+)?(?=\.|#|$)",
    re.IGNORECASE,
)
_NOT_TEX = ((b"%PDF", "arxiv: only a PDF"), (b"%!PS", "arxiv: only PostScript"))
_IGNORED = "%auto-ignore"
"""How a file begins that arXiv shall not set: the whole of a paper that was withdrawn."""
_WITHDRAWN = re.compile(r"\b(?:paper|article|manuscript|submission)\b[^.]{0,80}\bwithdrawn\b", re.IGNORECASE)
_NOTICE = 3_000
"""Characters of a paper that only says that it was withdrawn."""


def read_arxiv(path: Path, name: str) -> Iterator[Document]:
    """The papers of a file or folder; ids end in the name that a paper has in a bulk archive.

    Metadata: `files` (of LaTeX), `files_missing` (asked for and not there), `files_not_utf8` (read as Latin-1).
    """
    identity = f"{name}#"
    if path.is_dir():
        yield _read_folder(path).document(identity, _origin(name, str(path)))
        return
    try:
        kind = _kind(path)
        with _open(path) as content:
            if kind == "papers":
                yield from _read_papers(content, name)
            elif kind == "paper":
                yield _read_paper(content).document(identity, _origin(name, str(path)))
            else:
                yield _from_bytes(content.read(MAX_BYTES + 1), identity, _origin(name, str(path)))
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield Document(id=f"{name}#!", text=str(error), origin=_origin(name, str(path))).drop(_CUT)


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """The file's content, unpacked whatever its name ends in: arXiv serves gzip under the bare number."""
    with open_bytes(path) as (content, _):
        packed: Any = content
        yield gzip.GzipFile(fileobj=content) if packed.peek(2)[:2] == _GZIP else content  # type: ignore[misc]


def _kind(path: Path) -> Literal["file", "paper", "papers"]:
    """What is in a file: an archive is one of papers if it holds archives and no LaTeX before them."""
    with _open(path) as content:
        if not _is_archive(content.read(tarfile.BLOCKSIZE)):
            return "file"
    nested = False
    with _open(path) as content, suppress(*_BROKEN):
        for _, member in _members(content):
            suffix = PurePosixPath(member.name).suffix.lower()
            if suffix in _TEX:
                return "paper"
            if suffix in (*_PAPERS, ".pdf") and _ARXIV_ID.search(member.name):
                return "papers"
            nested |= suffix in _PAPERS
    return "papers" if nested else "paper"


class _Header(tarfile.TarInfo):
    """A member's header. Where `tarfile` would take a broken one for the archive's end, this raises."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not buf.strip(b"\0"):
                raise  # the end
            raise tarfile.ReadError(str(error)) from error
        if header.size < 0 or (header.type in _EXTENDED and header.size > _LONGEST_HEADER):
            raise tarfile.ReadError("a header of an impossible size")
        return header


def _is_archive(block: bytes) -> bool:
    """Whether a file that begins so is a tar archive, of whatever age."""
    try:
        _Header.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _members(content: IO[bytes]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The ordinary files of an archive: no links, no devices."""
    with tarfile.open(fileobj=content, mode="r|", tarinfo=_Header) as archive:
        for member in archive:
            if member.isfile():
                yield archive, member


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


class _Paper:
    """The LaTeX files of a paper, together no longer than the longest document."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._room = MAX_BYTES
        self._has_pdf = False

    def add(self, name: str, size: int, read: Callable[[], bytes]) -> None:
        """Take a file if it is LaTeX and its name is one inside the paper."""
        path = PurePosixPath(name)
        suffix = path.suffix.lower()
        self._has_pdf |= suffix == ".pdf"
        if suffix not in _SOURCES or path.is_absolute() or ".." in path.parts or self._room < 0:
            return
        self._room -= size
        if self._room >= 0 and len(self._files) < MOST_FILES:
            self._files[str(path)] = read()
        else:
            self._room = -1

    def document(self, identity: str, origin: str) -> Document:
        """The paper, joined, or the reason why there is none."""
        document = Document(id=identity, text="", origin=origin)
        if self._room < 0:
            return document.drop("arxiv: more than 64 MiB or 5000 files")
        texts, odd = {}, 0
        for file, data in self._files.items():
            try:
                texts[file] = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                texts[file] = data.decode("latin-1")
                odd += 1
        papers = [file for file in texts if PurePosixPath(file).suffix.lower() in _TEX]
        if not any("\\" in texts[file] for file in papers):
            withdrawn = any(texts[file].lstrip().startswith(_IGNORED) for file in papers)
            return document.drop("arxiv: withdrawn" if withdrawn else self._why_none())
        if all(texts[file].lstrip().startswith(_IGNORED) for file in papers):
            return document.drop("arxiv: withdrawn")
        try:
            text, missing = join({file: drop_comments(text) for file, text in texts.items()})
        except TooLong:
            return document.drop("arxiv: longer than 64 MiB")
        except NestedTooDeep:
            return document.drop("arxiv: files in files too deep")
        if "\x00" in text:
            return document.drop("nul bytes")
        if len(text) < _NOTICE and _WITHDRAWN.search(text):
            return document.drop("arxiv: withdrawn")
        noted = {"files": len(papers), "files_missing": missing, "files_not_utf8": odd}
        return document.with_text(text).with_metadata(**{key: value for key, value in noted.items() if value})

    def _why_none(self) -> str:
        return "arxiv: only a PDF" if self._has_pdf else "arxiv: no LaTeX in it"


def _read_folder(folder: Path) -> _Paper:
    paper = _Paper()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.is_symlink():
            paper.add(file.relative_to(folder).as_posix(), file.stat().st_size, file.read_bytes)
    return paper


def _read_paper(content: IO[bytes]) -> _Paper:
    paper = _Paper()
    for archive, member in _members(content):
        paper.add(member.name, member.size, partial(_content, archive, member))
    return paper


def _read_papers(content: IO[bytes], name: str) -> Iterator[Document]:
    """The papers of an archive of papers; archives within theirs are not opened."""
    seen: Counter[str] = Counter()
    for archive, member in _members(content):
        inner = member.name.encode("utf-8", "replace").decode()
        if PurePosixPath(inner).suffix.lower() not in (*_PAPERS, *_TEX, ".pdf"):
            continue
        seen[inner] += 1
        identity = f"{name}#{inner}" + (f"~{seen[inner]}" if seen[inner] > 1 else "")
        origin = _origin(inner, identity)
        if member.size > MAX_BYTES:
            yield Document(id=identity, text="", origin=origin).drop("arxiv: longer than 64 MiB")
        else:
            yield _from_bytes(_content(archive, member), identity, origin)


def _from_bytes(data: bytes, identity: str, origin: str) -> Document:
    """The paper that a whole file holds: an archive, packed or not, or a bare `.tex`."""
    document = Document(id=identity, text="", origin=origin)
    try:
        if data[:2] == _GZIP:
            with gzip.open(io.BytesIO(data)) as unpacked:
                data = unpacked.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            return document.drop("arxiv: longer than 64 MiB")
        if _is_archive(data[: tarfile.BLOCKSIZE]):
            return _read_paper(io.BytesIO(data)).document(identity, origin)
    except _BROKEN:
        return document.drop(_CUT)
    for beginning, reason in _NOT_TEX:
        if data.startswith(beginning):
            return document.drop(reason)
    paper = _Paper()
    paper.add("main.tex", len(data), lambda: data)
    return paper.document(identity, origin)


def _origin(name: str, otherwise: str) -> str:
    """The paper's address, where its name tells the number."""
    found = _ARXIV_ID.search(name)
    if not found:
        return otherwise
    number = found["new"] or f"{found['old'].lower()}/{found['number']}"
    return f"https://arxiv.org/abs/{number}"
