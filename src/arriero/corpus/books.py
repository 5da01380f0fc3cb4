"""Books in plain text, as Project Gutenberg gives them: its header and licence go, what they say becomes metadata.

A book without Gutenberg's marks is kept whole; of one whose end is cut off, everything from the first mark on.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from arriero.common.compression import DAMAGE, open_bytes
from arriero.corpus.decoding import decode_utf8
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
    r"\A\s*(?:(?:Produced|Transcribed|Prepared|Scanned|E-?text prepared) by\b"
    r"(?:[^\n]|\n(?![ \t]*\n)){0,1000}\n[ \t]*\n\s*)+",
    re.IGNORECASE,
)
"""Paragraphs that name who made the file."""
_FIELD = re.compile(r"^(Title|Author|Language|Character set encoding):[ \t]*(\S[^\n]*)$", re.MULTILINE | re.IGNORECASE)
_COPYRIGHTED = re.compile(r"COPYRIGHTED Project Gutenberg", re.IGNORECASE)
_ENCODINGS = re.compile(r"(?:iso|cp|windows|koi8|mac|big5|gb|euc|shift)[\w -]*", re.IGNORECASE)
"""Names of the encodings of texts; Python knows others, which are none."""
_LATIN_1 = re.compile(r"(?:iso[-_ ]?)?(?:8859[-_]1|latin[-_ ]?1)|ansi|(?:windows|cp)[-_ ]?(?:code ?page )?1252", re.I)
_LANGUAGE_NAMES = (
    "english en french fr german de spanish es italian it portuguese pt dutch nl finnish fi swedish sv danish da "
    "norwegian no polish pl hungarian hu czech cs catalan ca romanian ro bulgarian bg serbian sr slovenian sl "
    "croatian hr russian ru ukrainian uk latin la greek el esperanto eo chinese zh japanese ja tagalog tl welsh cy "
    "icelandic is"
)
_LANGUAGES = dict(zip(_LANGUAGE_NAMES.split()[::2], _LANGUAGE_NAMES.split()[1::2], strict=True))
"""Codes of the languages that headers name."""


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
        text, reason = _decode(data, encoding)
    yield document.drop(reason) if reason else document.with_text(text)


def _declared(data: bytes) -> str | None:
    """The encoding of which the header speaks; a book without one is no text unless it is UTF-8."""
    head = data[:_HEAD].decode("ascii", "ignore").replace("\r", "")
    fields = {key.lower(): value.strip() for key, value in _FIELD.findall(head)}
    return fields.get("character set encoding")


def _decode(data: bytes, name: str) -> tuple[str, str | None]:
    """The text, or why it is none. What is called Latin-1 is mostly Windows' set, which has more characters."""
    names = ("cp1252", "latin-1") if _LATIN_1.fullmatch(name) else (name,) if _ENCODINGS.fullmatch(name) else ()
    for encoding in names:
        try:
            return data.decode(encoding), None
        except (UnicodeDecodeError, LookupError):
            continue
    return "", "books: not in the encoding that its header declares"


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
    if language := _LANGUAGES.get(fields.get("language", "").lower()):
        metadata["language"] = language
    return dataclasses.replace(document, text=body, licence=licence).with_metadata(**metadata)
