"""What Word and PowerPoint files share: text out of OOXML elements, and their core properties."""

from collections.abc import Iterator
from typing import Any

_PROPERTIES = ("title", "subject", "keywords", "language")
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"


def core_properties(properties: Any, author: str | None) -> dict[str, str]:
    """Title, author, subject, keywords, language and date of last change, those that are set."""
    values = {name: getattr(properties, name) for name in _PROPERTIES} | {"author": author}
    metadata = {name: value.strip() for name, value in values.items() if value and value.strip()}
    if properties.modified is not None:
        metadata["date"] = properties.modified.date().isoformat()
    return metadata


def paragraph_text(paragraph: Any) -> str:
    """A Word paragraph's text: insertions and content controls too, deletions, hidden and fallback copies not.

    python-docx's own `Paragraph.text` leaves out tracked insertions and content controls.
    """
    return "".join(_pieces(paragraph))


def _pieces(element: Any) -> Iterator[str]:
    for child in element.iterchildren():
        tag = child.tag
        if tag == f"{_WORD}t":
            yield child.text or ""
        elif tag == f"{_WORD}tab":
            yield "\t"
        elif tag in (f"{_WORD}br", f"{_WORD}cr"):
            yield "\n"
        elif tag == f"{_WORD}noBreakHyphen":
            yield "-"
        elif tag not in _NO_TEXT:
            yield from _pieces(child)


_NO_TEXT = {
    _FALLBACK,
    *(f"{_WORD}{name}" for name in ("pPr", "rPr", "del", "delText", "instrText", "txbxContent", "moveFrom", "sdtPr")),
}
