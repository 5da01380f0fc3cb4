"""Books in plain text, as Project Gutenberg gives them: its header and licence go, what they say becomes metadata.

A book without Gutenberg's marks is kept whole; of one whose end is cut off, everything from the first mark on.
"""

import codecs
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from arriero.common.compression import DAMAGE, open_bytes
from arriero.corpus.decoding import decode_utf8, why_unusable
from arriero.corpus.document import MAX_BYTES, Document, Each

PUBLIC_DOMAIN = "public domain (Project Gutenberg, USA)"
_HEAD = 20_000
"""Characters in which a header lies; older ones are long."""
_START = re.compile(
    r"^[ \t]*\*{3}[ \t]*START OF (?:THE|THIS) PROJECT GUTENBERG.{0,300}?\*{3}[^\n]*\n"
    r"|^[ \t]*\*?END\*?[ \t]*THE SMALL PRINT![^\n]*\*END\*[^\n]*\n",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_END = re.compile(
    r"^[ \t]*(?:\*{3}[ \t]*END OF (?:THE|THIS) PROJECT GUTENBERG|End of (?:the |this )?Project Gutenberg['’]?s? )",
    re.IGNORECASE | re.MULTILINE,
)
_CREDITS = re.compile(
    r"\A\s*(?:(?:Produced|Transcribed|Prepared|Scanned|E-?text prepared) by\b.*?(?:\n[ \t]*\n|\Z)\s*)+",
    re.DOTALL | re.I,
)
_FIELD = re.compile(r"^(Title|Author|Language|Character set encoding):[ \t]*(\S[^\n]*)$", re.MULTILINE | re.IGNORECASE)
_COPYRIGHTED = re.compile(r"COPYRIGHTED Project Gutenberg", re.IGNORECASE)
_LATIN = ("latin", "8859", "1252", "ansi")


def read_book(path: Path, name: str) -> Iterator[Document]:
    """The one document of a file, raw; `.gz` and others are opened. UTF-8, or the encoding that its header declares."""
    document = Document(id=f"{name}#", text="", origin=str(path))
    try:
        with open_bytes(path) as (content, _):
            data = content.read(MAX_BYTES + 1)
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield document.drop("books: the file is cut off or damaged")
        return
    if len(data) > MAX_BYTES:
        yield document.drop("books: longer than 64 MiB")
        return
    text, reason = decode_utf8(data)
    if reason == "utf-8: invalid" and (encoding := _declared(data)):
        text, reason = data.decode(encoding, "replace"), None
    yield document.drop(reason or why_unusable(data) or "empty") if reason else document.with_text(text)


def _declared(data: bytes) -> str | None:
    """The 8-bit encoding of which the header speaks; a book without one is no text unless it is UTF-8."""
    for key, value in _FIELD.findall(data[:_HEAD].decode("ascii", "ignore").replace("\r", "")):
        if key.lower() == "character set encoding":
            if any(mark in value.lower() for mark in _LATIN):
                return "cp1252"
            try:
                return codecs.lookup(value.strip()).name
            except LookupError:
                return None
    return None


def clean_book() -> Each:
    """The step that takes Gutenberg's parts off."""
    return Each("gutenberg", _clean)


def _clean(document: Document) -> Document:
    text = document.text.replace("\r\n", "\n").replace("\r", "\n")
    head = text[:_HEAD]
    starts = list(_START.finditer(head))
    if not starts:
        return document.with_text(text.strip())
    fields = {key.lower(): value.strip() for key, value in _FIELD.findall(head[: starts[-1].start()])}
    found = _END.search(text, starts[-1].end())
    body = _CREDITS.sub("", text[starts[-1].end() : found.start() if found else None]).strip()
    if not body:
        return document.drop("gutenberg: nothing between the marks")
    licence = document.licence or (None if _COPYRIGHTED.search(head) else PUBLIC_DOMAIN)
    metadata = {key: fields[key] for key in ("title", "author") if key in fields}
    return dataclasses.replace(document, text=body, licence=licence).with_metadata(**metadata)
