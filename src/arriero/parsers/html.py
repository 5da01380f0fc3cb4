"""HTML: trafilatura finds the content among menus and adverts; headings become sections. Nothing is ever fetched.

Trafilatura is made for articles: it drops lists and tables of short pages and can drop most of a manual. For a
short page, and where it keeps too little of the text outside links, the whole body without its navigation is taken.
Its own fallback extractors are left out (`fast`): they take quadratic time on pages of many elements.
"""

import re
from dataclasses import dataclass
from typing import Any

from arriero.common.errors import FormatError, require
from arriero.parsers.document import Section
from arriero.parsers.encoding import decode
from arriero.parsers.headings import Headings
from arriero.parsers.limits import Budget, Parsed

MIN_KEPT = 0.8
"""Share of the text outside links and navigation that trafilatura must keep to be believed."""
SHORT_PAGE = 2_000
"""Characters (without blanks) up to which a page is taken whole."""

_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{2,40})|<\?xml[^>]{0,100}?encoding=["']([\w.:-]{2,40})""", re.I
)
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_TIGHT = frozenset({"li", "item", "tr", "row", "dt", "dd"})
"""Blocks that stand on the line after the one before, without a blank line."""
_SKIPPED_NAMES = "script style noscript template nav footer aside form svg iframe head object button"
_SKIPPED = frozenset(_SKIPPED_NAMES.split())
_BLOCK_NAMES = (
    "address article blockquote body caption details div dl fieldset figcaption figure head header hr list main ol p "
    "pre quote section summary table tbody tfoot thead title ul"
)
_BLOCKS = _HEADINGS | _TIGHT | frozenset(_BLOCK_NAMES.split())
_NO_DATA_ROW = ("table", "ul", "ol", "pre", *_HEADINGS)
_METADATA = ("title", "author", "date", "language", "sitename")


def read_html(data: bytes, budget: Budget) -> Parsed:
    """Sections by heading path; each begins with its heading.

    Raises:
        FormatError: nested too deeply, or no text.
    """
    trafilatura = require("trafilatura", extra="rag", purpose="reading HTML")
    found = _CHARSET.search(data[:4096])
    declared = next(filter(None, found.groups())).decode("ascii") if found else None
    text, encoding = decode(data, declared)
    tree = _tree(text, budget)
    blocks = _read_blocks(tree, _SKIPPED)
    budget.check()
    metadata = {"encoding": encoding}
    extracted = trafilatura.bare_extraction(
        _tree(text, budget),
        with_metadata=True,
        include_comments=False,
        include_tables=True,
        favor_recall=True,
        fast=True,
    )
    if extracted is not None:
        values = {name: getattr(extracted, name) for name in _METADATA}
        metadata |= {name: str(value) for name, value in values.items() if value}
        kept = _read_blocks(extracted.body, frozenset())
        size = _size_outside_links(tree)
        if size > SHORT_PAGE and sum(_size(block.text) for block in kept) >= MIN_KEPT * size:
            blocks = kept
    budget.characters(sum(len(block.text) for block in blocks))
    return Parsed(_sections(blocks), metadata)


def _tree(text: str, budget: Budget) -> Any:
    """The page's element tree; libxml2 drops what is nested too deeply, so that is an error here."""
    lxml_html = require("lxml.html", extra="rag", purpose="reading HTML")
    parser = lxml_html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    data = text.encode("utf-8", errors="replace")
    if not data.strip():
        raise FormatError("no text")
    tree = lxml_html.document_fromstring(data, parser=parser, ensure_head_body=True)
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
        raise FormatError(f"nested deeper than {budget.limits.max_depth} levels (limit max_depth)")
    return tree


@dataclass(frozen=True)
class _Block:
    """A heading, paragraph, list item, table row or code block."""

    level: int
    """1 to 6 for a heading, else 0."""
    text: str
    tight: bool
    """Whether it follows another tight block without a blank line."""


class _BlockReader:
    """Collects inline text until a border between blocks; fed by a walk in document order."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self._buffer: list[str] = []
        self._code = 0
        self._row = 0
        self._tight = False

    def start(self, element: Any) -> None:
        tag = element.tag
        if self._is_border(element):
            self._flush(0)
            self._tight = self._tight or tag in _TIGHT
        self._code += _is_code(element)
        self._row += _is_data_row(element)
        if tag in ("li", "item") and not self._row:
            self._buffer.append("- ")
        elif tag in ("br", "lb"):
            self._buffer.append("\n")
        self._buffer.append(element.text or "")

    def end(self, element: Any) -> None:
        tag = element.tag
        self._row -= _is_data_row(element)
        if self._is_border(element):
            self._flush(_level(element))
        elif self._row:
            self._buffer.append(" | " if tag in ("td", "th", "cell") else " " if tag in _BLOCKS else "")
        self._code -= _is_code(element)

    def tail(self, element: Any) -> None:
        self._buffer.append(element.tail or "")

    def _is_border(self, element: Any) -> bool:
        return not self._row and (element.tag in _BLOCKS or _is_code(element))

    def _flush(self, level: int) -> None:
        text = "".join(self._buffer)
        if not self._code:
            text = (
                "\n".join(" ".join(line.split()) for line in text.split("\n"))
                if "\n" in text
                else " ".join(text.split())
            )
            text = text.strip().removesuffix(" |")
        if text.strip() == "-":  # an item's mark whose text is a paragraph within
            return
        self._buffer.clear()
        if text.strip(" \n|"):
            self.blocks.append(_Block(level, text.strip("\n"), self._tight))
        self._tight = False


def _read_blocks(root: Any, skip: frozenset[str]) -> list[_Block]:
    etree = require("lxml.etree", extra="rag", purpose="reading HTML")
    reader = _BlockReader()
    walk = etree.iterwalk(root, events=("start", "end"))
    for event, element in walk:
        skipped = element.tag in skip
        if event == "start" and skipped:
            walk.skip_subtree()
        elif event == "start":
            reader.start(element)
        else:
            if not skipped:
                reader.end(element)
            if element is not root:
                reader.tail(element)
    return reader.blocks


def _level(element: Any) -> int:
    """A heading's level: `h2`, or trafilatura's `<head rend="h2">`."""
    name = element.get("rend", "h2") if element.tag == "head" else element.tag
    return int(name[1]) if name in _HEADINGS else 0


def _is_code(element: Any) -> bool:
    """Whether line breaks and indentation count: `pre`, and trafilatura's `code` that stands on its own."""
    return element.tag == "pre" or (element.tag == "code" and "\n" in (element.text or ""))


def _is_data_row(element: Any) -> bool:
    """A table's row, unless the table is there for the layout of whole paragraphs."""
    return element.tag in ("tr", "row") and next(element.iter(*_NO_DATA_ROW), None) is None


def _size(text: str) -> int:
    """Characters that are no blanks: a measure that serves every script."""
    return sum(map(len, text.split()))


def _size_outside_links(tree: Any) -> int:
    etree = require("lxml.etree", extra="rag", purpose="reading HTML")
    size = 0
    walk = etree.iterwalk(tree, events=("start", "end"))
    for event, element in walk:
        if event == "end":
            size += _size(element.tail or "")
        elif element.tag == "a" or element.tag in _SKIPPED:
            walk.skip_subtree()
        else:
            size += _size(element.text or "")
    return size


def _sections(blocks: list[_Block]) -> list[Section]:
    sections: list[Section] = []
    headings = Headings()
    parts: list[str] = []
    tight = False
    for block in blocks:
        if block.level:
            sections.append(Section("".join(parts), title=headings.path))
            parts.clear()
            headings.enter(block.level, block.text)
        parts.append(("\n" if block.tight and tight else "\n\n") + block.text)
        tight = block.tight
    sections.append(Section("".join(parts), title=headings.path))
    return sections
