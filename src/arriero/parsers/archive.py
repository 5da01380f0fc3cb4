"""Office files are zip archives of XML: what is checked before any library opens them.

Sizes come from the central directory, before anything is unpacked. A directory that lies does not help: `zipfile`
stops at the size it states. Any document type declaration is refused, because Office files never have one and entity
expansion ("billion laughs", outside files) needs one; only each part's prolog is read for it.
"""

import io
import re
import zipfile
import zlib
from xml.parsers import expat

from arriero.common.errors import FormatError
from arriero.parsers.limits import Budget

RATIO_FLOOR = 16 * 1024**2
"""Bytes unpacked below which the compression ratio does not matter: a small repetitive sheet is no bomb."""

_ENCRYPTED = 0x1
_PROLOG_STEP = 4096
_OTHER_KINDS = {
    "application/epub+zip": "an EPUB book",
    "application/vnd.oasis.opendocument.text": "an OpenDocument text",
    "application/vnd.oasis.opendocument.spreadsheet": "an OpenDocument spreadsheet",
    "application/vnd.oasis.opendocument.presentation": "an OpenDocument presentation",
}
_MAIN_PARTS = {
    "docx": re.compile(r"(wordprocessingml|ms-word)\.[\w.]*main\+xml"),
    "pptx": re.compile(r"(presentationml|ms-powerpoint)\.[\w.]*main\+xml"),
    "xlsx": re.compile(r"(spreadsheetml|ms-excel)\.[\w.]*main\+xml"),
}


def office_kind(data: bytes, budget: Budget) -> str:
    """'docx', 'pptx' or 'xlsx', when the archive is one and is safe to open.

    Raises:
        FormatError: broken, encrypted, a bomb, or an archive of another kind.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _weigh(members, len(data), budget)
            kind = _kind(archive)
            for member in members:
                if member.filename.endswith((".xml", ".rels")):
                    budget.check()
                    _refuse_doctype(archive, member)
            return kind
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, RuntimeError, zlib.error) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"broken zip archive ({error})") from error


def _weigh(members: list[zipfile.ZipInfo], packed: int, budget: Budget) -> None:
    limits = budget.limits
    if len(members) > limits.max_members:
        raise FormatError(f"zip bomb? {len(members):,} members, more than {limits.max_members:,} (limit max_members)")
    if any(member.flag_bits & _ENCRYPTED for member in members):
        raise FormatError("encrypted archive: remove the password first")
    unpacked = sum(member.file_size for member in members)
    if unpacked > limits.max_unpacked:
        raise FormatError(
            f"zip bomb? unpacks to {unpacked:,} bytes, more than {limits.max_unpacked:,} (limit max_unpacked)"
        )
    if unpacked > RATIO_FLOOR and unpacked > limits.max_ratio * packed:
        ratio = unpacked // max(packed, 1)
        raise FormatError(
            f"zip bomb? unpacks to {ratio:,} times its size, more than {limits.max_ratio} (limit max_ratio)"
        )


def _kind(archive: zipfile.ZipFile) -> str:
    names = set(archive.namelist())
    if "mimetype" in names:
        mimetype = archive.read("mimetype").decode("ascii", errors="replace").strip()
        other = _OTHER_KINDS.get(mimetype, "an archive of an unknown kind")
        raise FormatError(f"{other} is not supported: save it as PDF, DOCX, PPTX, XLSX or HTML")
    if "[Content_Types].xml" not in names:
        raise FormatError("a zip archive that is no Office file: unpack it and add what it holds")
    types = archive.read("[Content_Types].xml").decode("utf-8", errors="replace")
    for kind, main_part in _MAIN_PARTS.items():
        if main_part.search(types):
            return kind
    raise FormatError("an Office file of a kind that is not supported: save it as DOCX, PPTX or XLSX")


class _RootReached(Exception):
    """The prolog is over."""


def _refuse_doctype(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Read one part up to its root element; a DOCTYPE before it is refused."""
    parser = expat.ParserCreate()

    def on_doctype(*_: object) -> None:
        raise FormatError(f"document type declaration in {member.filename}: entities are not expanded")

    def on_element(*_: object) -> None:
        raise _RootReached

    parser.StartDoctypeDeclHandler = on_doctype
    parser.StartElementHandler = on_element
    with archive.open(member) as part:
        try:
            while piece := part.read(_PROLOG_STEP):
                parser.Parse(piece, False)
        except _RootReached:
            return
        except expat.ExpatError as error:
            raise FormatError(f"broken XML in {member.filename} ({error})") from error
