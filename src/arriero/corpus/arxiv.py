"""Papers out of arXiv's sources: a tar archive of a paper, a bare `.tex`, a tar of papers (the bulk form), a folder.

A paper is its main file with all that it `\\input`s in place, behind the definitions of its own style files. Nothing is
unpacked to disk, and no name in an archive is ever taken for a path outside of it.
"""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from arriero.common.compression import DAMAGE, open_bytes
from arriero.corpus.document import MAX_BYTES, Document
from arriero.corpus.latex import drop_comments

MOST_FILES = 5_000
"""Of a paper."""
_SOURCES = (".tex", ".ltx", ".latex", ".sty", ".cls")
_STYLES = (".sty", ".cls")
_INPUT = re.compile(r"\\(?:input|include|subfile)\s*(?:\{([^{}\n]{1,200})\}|[ \t]+([^\s{}\\]{1,200}))")
_MAIN = re.compile(r"\\document(?:class|style)\b")
_ARXIV_ID = re.compile(r"(?:^|/)((?:[a-z-]+(?:\.[A-Z]{2})?)?\d{7}|\d{4}\.\d{4,5})(?:v\d+)?(?:\.|$)")
Files = Mapping[str, bytes]


def read_arxiv(path: Path, name: str) -> Iterator[Document]:
    """The papers of a file or folder; ids end in the name that a paper has in a bulk archive."""
    if path.is_dir():
        files = {
            file.relative_to(path).as_posix(): file.read_bytes()
            for file in sorted(path.rglob("*"))
            if file.is_file() and not file.is_symlink() and file.suffix in _SOURCES and file.stat().st_size <= MAX_BYTES
        }
        yield _paper(files, f"{name}#", str(path))
        return
    if path.suffix == ".tex":
        yield _paper({path.name: path.read_bytes()}, f"{name}#", str(path))
        return
    if path.suffix == ".pdf":
        yield Document(id=f"{name}#", text="", origin=_origin(name, str(path))).drop("arxiv: only a PDF")
        return
    with open_bytes(path) as (content, _):
        yield from _archive(content, name, str(path))


def _archive(content: IO[bytes], name: str, path: str) -> Iterator[Document]:
    """A tar archive of a paper's files, or of papers; what is no archive is the paper itself."""
    files: dict[str, bytes] = {}
    papers = 0
    try:
        first = content.read(262)
        whole = io.BufferedReader(_Joined(first, content))
        if first[257:262] != b"ustar":
            yield _paper({"main.tex": whole.read(MAX_BYTES + 1)}, f"{name}#", path)
            return
        with tarfile.open(fileobj=whole, mode="r|") as archive:
            for member in archive:
                if not member.isfile() or len(files) >= MOST_FILES:
                    continue
                inner, suffix = member.name, PurePosixPath(member.name).suffix.lower()
                if suffix in (".gz", ".tar", ".pdf"):
                    papers += 1
                    yield from _member(archive, member, f"{name}#{inner}")
                elif suffix in _SOURCES and member.size <= MAX_BYTES:
                    file = archive.extractfile(member)
                    files[inner] = file.read() if file else b""
    except (*DAMAGE, tarfile.TarError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield Document(id=f"{name}#!", text=str(error), origin=path).drop("arxiv: the archive is cut off or damaged")
        return
    if files or not papers:
        yield _paper(files, f"{name}#", path)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, identity: str) -> Iterator[Document]:
    """A paper in an archive of papers."""
    document = Document(id=identity, text="", origin=_origin(member.name, identity))
    if member.name.lower().endswith(".pdf"):
        yield document.drop("arxiv: only a PDF")
        return
    if member.size > MAX_BYTES:
        yield document.drop("arxiv: longer than 64 MiB")
        return
    file = archive.extractfile(member)
    data = file.read() if file else b""
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(data)) as unpacked:
                data = unpacked.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            yield document.drop("arxiv: longer than 64 MiB")
            return
        files = {"main.tex": data} if data[257:262] != b"ustar" else _unpack(data)
    except (EOFError, OSError, zlib.error, tarfile.TarError):
        yield document.drop("arxiv: the archive is cut off or damaged")
        return
    yield _paper(files, identity, document.origin)


def _unpack(data: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if member.isfile() and PurePosixPath(member.name).suffix.lower() in _SOURCES and len(files) < MOST_FILES:
                file = archive.extractfile(member)
                files[member.name] = file.read() if file else b""
    return files


class _Joined(io.RawIOBase):
    """Bytes that were read already, and the stream they came from."""

    def __init__(self, first: bytes, rest: IO[bytes]) -> None:
        self._first, self._rest = first, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._first[: len(buffer)] or self._rest.read(len(buffer))
        self._first = self._first[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _origin(name: str, otherwise: str) -> str:
    """The paper's address, where its name tells the number."""
    found = _ARXIV_ID.search(name)
    if not found:
        return otherwise
    number = found[1] if "." in found[1] else re.sub(r"^([a-zA-Z.-]+)(\d{7})$", r"\1/\2", found[1])
    return f"https://arxiv.org/abs/{number}"


def _paper(files: Files, identity: str, path: str) -> Document:
    """The document of a paper's files."""
    name = identity.removesuffix("#")
    document = Document(id=identity, text="", origin=_origin(name, path))
    texts, odd = {}, 0
    for file, data in files.items():
        try:
            texts[file] = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            texts[file] = data.decode("latin-1")
            odd += 1
    sources = {file: drop_comments(text) for file, text in texts.items() if not file.lower().endswith(_STYLES)}
    if not any(text.strip() for text in sources.values()):
        return document.drop("arxiv: no LaTeX in it")
    joined, missing = join(sources)
    styles = "\n".join(drop_comments(text) for file, text in texts.items() if file.lower().endswith(_STYLES))
    text = f"{styles}\n{joined}" if styles else joined
    if len(text) > MAX_BYTES:
        return document.drop("arxiv: longer than 64 MiB")
    if "\x00" in text:
        return document.drop("nul bytes")
    noted = {"files": len(sources), "files_missing": missing, "files_not_utf8": odd}
    return document.with_text(text).with_metadata(**{key: value for key, value in noted.items() if value})


def join(sources: Mapping[str, str]) -> tuple[str, int]:
    """The main file with all that it inputs in place, and how many files it asks for that are not there.

    A file that asks for itself, by whatever way, gets nothing; what grows beyond the longest document is cut.
    """
    main = find_main(sources)
    folder = PurePosixPath(main).parent
    missing = 0
    room = MAX_BYTES

    def put_in(file: str, active: frozenset[str]) -> str:
        nonlocal missing, room
        text = sources[file]
        room -= len(text)
        if room < 0:
            return ""
        kept, at = [], 0
        for found in _INPUT.finditer(text):
            asked = _resolve(sources, folder, PurePosixPath(file).parent, (found[1] or found[2]).strip())
            kept.append(text[at : found.start()])
            at = found.end()
            missing += asked is None
            if asked is not None and asked not in active:
                kept.append(put_in(asked, active | {asked}))
        return "".join(kept) + text[at:]

    return put_in(main, frozenset({main})), missing


def _resolve(sources: Mapping[str, str], *folders_and_name: PurePosixPath | str) -> str | None:
    """The file of the paper that a name means, seen from the main file's folder or the asking one's."""
    *folders, name = folders_and_name
    for folder in folders:
        parts: list[str] = []
        for part in PurePosixPath(folder, str(name)).parts:
            if part == "..":
                parts[-1:] = []
            elif part not in (".", "/"):
                parts.append(part)
        for file in ("/".join(parts), "/".join(parts) + ".tex"):
            if file in sources:
                return file
    return None


def find_main(sources: Mapping[str, str]) -> str:
    """The file that begins the paper: it has a document class and a document, and is not input by another."""
    asked = {
        PurePosixPath((found[1] or found[2]).strip()).stem
        for text in sources.values()
        for found in _INPUT.finditer(text)
    }

    def merit(file: str) -> tuple[bool, bool, bool, int]:
        text = sources[file]
        own = PurePosixPath(file).stem not in asked
        return bool(_MAIN.search(text)), r"\begin{document}" in text, own, len(text)

    return max(sorted(sources), key=merit)
