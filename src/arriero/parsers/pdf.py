"""PDF through PDFium: text by page, bookmarks as headings, words hyphenated at a line's end mended.

PDFium is not thread-safe and its objects must be closed in order; one lock and context managers see to both.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from arriero.common.errors import FormatError, require
from arriero.parsers.document import Section
from arriero.parsers.headings import Headings
from arriero.parsers.limits import Budget, Parsed

_LOCK = threading.Lock()
_BOOKMARK_DEPTH = 8
_METADATA = {"Title": "title", "Author": "author", "Subject": "subject", "Keywords": "keywords", "CreationDate": "date"}
# PDFium writes U+FFFE (or U+0002) for a hyphen at a line's end and joins the lines; other producers leave '-\n'.
_LINE_HYPHEN = re.compile(r"(\w+)(?:[\ufffe\x02](?:\r?\n)?|[-\u2010\xad]\r?\n)(\w+)")
_WORD = re.compile(r"\w+(?:[-\u2010]\w+)*")


def read_pdf(data: bytes, budget: Budget) -> Parsed:
    """Sections by page (from 1), split again where a bookmark's heading stands on the page.

    Raises:
        FormatError: encrypted, broken, without pages, or without text (scanned).
    """
    pdfium = require("pypdfium2", extra="rag", purpose="reading PDF")
    with _LOCK:
        try:
            with closing(pdfium.PdfDocument(data)) as document:
                budget.pages(len(document))
                pages = list(_page_texts(document, budget))
                bookmarks = _bookmarks(document)
                metadata = _metadata(document)
        except pdfium.PdfiumError as error:
            raise FormatError(_reason(str(error), data)) from error
    if not any(text.strip() for text in pages):
        raise FormatError(
            f"no text on {len(pages)} pages: a scanned PDF? Run it through OCR first (for example ocrmypdf)"
        )
    pages = _mend_hyphens(pages)
    return Parsed(list(_sections(pages, bookmarks)), metadata)


def _reason(message: str, data: bytes) -> str:
    """What PDFium's error means. Its last error is that of an earlier file when this one merely has no pages, so that a
    password is believed only where the file has an encryption dictionary, whose key always stands in plain bytes.
    """
    if b"/Encrypt" in data:
        if "password" in message.lower():
            return "encrypted PDF: remove the password first"
        if "security" in message.lower():
            return "encrypted PDF, with a security scheme that is not supported"
    return "broken PDF, or one without pages"


def _page_texts(document: Any, budget: Budget) -> Iterator[str]:
    for index in range(len(document)):
        budget.check()
        with closing(document[index]) as page, closing(page.get_textpage()) as textpage:
            text = textpage.get_text_range(errors="replace")
        budget.characters(len(text))
        yield text.replace("\r\n", "\n")


def _bookmarks(document: Any) -> dict[int, list[tuple[int, str]]]:
    """Page index → (level, title) of the bookmarks that lead there, in order."""
    found: dict[int, list[tuple[int, str]]] = {}
    for bookmark in document.get_toc(max_depth=_BOOKMARK_DEPTH):
        target = bookmark.get_dest()
        index = target.get_index() if target else None
        title = " ".join(bookmark.get_title().split())
        if index is not None and title:
            found.setdefault(index, []).append((bookmark.level, title))
    return found


def _metadata(document: Any) -> dict[str, str]:
    raw = document.get_metadata_dict(skip_empty=True)
    metadata = {ours: raw[theirs] for theirs, ours in _METADATA.items() if theirs in raw}
    if date := re.match(r"D:(\d{4})(\d\d)(\d\d)", metadata.pop("date", "")):
        metadata["date"] = "-".join(date.groups())
    return metadata | {"pages": str(len(document))}


def _mend_hyphens(pages: list[str]) -> list[str]:
    """Join words that were cut at a line's end, and keep the hyphen of those that are written with one elsewhere.

    'state-of-the-⏎art' stays hyphenated when a part is joined to a hyphen already, when the document writes that
    hyphenated word within a line, or before a capital or a digit; else 're-⏎markable' becomes 'remarkable'.
    """
    whole = {word.lower() for text in pages for word in _WORD.findall(text)}

    def mend(match: re.Match[str]) -> str:
        before, after = match[1], match[2]
        hyphenated, joined = f"{before}-{after}".lower(), f"{before}{after}".lower()
        inside_compound = match.start() > 0 and match.string[match.start() - 1] == "-"
        compound = match.string[match.end() : match.end() + 1] == "-"
        if joined not in whole and (inside_compound or compound or hyphenated in whole or not after[0].islower()):
            return f"{before}-{after}"
        return f"{before}{after}"

    return [_LINE_HYPHEN.sub(mend, text) for text in pages]


def _sections(pages: list[str], bookmarks: dict[int, list[tuple[int, str]]]) -> Iterator[Section]:
    headings = Headings()
    for index, text in enumerate(pages):
        at = 0
        for level, title in bookmarks.get(index, ()):
            line = _heading_line(title).search(text, at)
            cut = line.start() if line else at
            if cut > at:
                yield Section(text[at:cut], index + 1, headings.path)
            at = cut
            headings.enter(level, title)
        yield Section(text[at:], index + 1, headings.path)


def _heading_line(title: str) -> re.Pattern[str]:
    """The line that holds a bookmark's title, perhaps behind its number, perhaps broken over lines."""
    words = r"\s+".join(map(re.escape, title.split()))
    return re.compile(rf"^[ \t]*(?:[\d.]+[ \t]+)?{words}[ \t]*$", re.MULTILINE | re.IGNORECASE)
