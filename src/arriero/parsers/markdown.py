"""Markdown through markdown-it-py: headings become sections, code and tables stay, markup goes.

An absolute link keeps its address behind its text, because "where is it?" is a question that documents answer; badges
(links around an image) don't.
"""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from arriero.common.errors import FormatError, require
from arriero.parsers.document import Section
from arriero.parsers.encoding import decode
from arriero.parsers.headings import Headings
from arriero.parsers.limits import Budget, Parsed

if TYPE_CHECKING:
    from markdown_it.token import Token

MAX_NESTING = 100
"""Levels of blocks within blocks; a list takes two. Bounded by Python's stack: the parser is recursive."""

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.{0,20000}?)^(?:---|\.\.\.)[ \t]*$", re.DOTALL | re.MULTILINE)
_FRONT_FIELD = re.compile(r"^(title|author|date|language|description)\s*:\s*(\S.*)$", re.MULTILINE | re.IGNORECASE)


def read_markdown(data: bytes, budget: Budget) -> Parsed:
    """Sections by heading path; each begins with its heading. YAML front matter gives metadata."""
    text, encoding = decode(data)
    metadata = {"encoding": encoding}
    if front := _FRONT_MATTER.match(text):
        metadata |= {name.lower(): value.strip("\"' \r") for name, value in _FRONT_FIELD.findall(front[1])}
        text = text[front.end() :]
    sections = markdown_sections(text, budget)
    if "title" not in metadata and sections and sections[-1].title:
        first = next(section.title for section in sections if section.title)
        metadata["title"] = first
    return Parsed(sections, metadata)


def markdown_sections(text: str, budget: Budget) -> list[Section]:
    """The sections of a Markdown text (CommonMark and tables).

    Raises:
        FormatError: lists or quotes are nested too deep.
    """
    markdown_it = require("markdown_it", extra="rag", purpose="reading Markdown")
    budget.characters(len(text))
    parser = markdown_it.MarkdownIt("commonmark", {"maxNesting": MAX_NESTING}).enable("table")
    writer = _Writer(budget)
    for token in parser.parse(text):
        if token.nesting == 1 and token.level >= MAX_NESTING - 1:  # what is deeper would be left out without a word
            raise FormatError(f"lists or quotes nested deeper than {MAX_NESTING // 2} levels")
        writer.write(token)
    return writer.finish()


class _Writer:
    """Turns block tokens, as they come, into lines of plain text by section."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._sections: list[Section] = []
        self._headings = Headings()
        self._parts: list[str] = []
        self._heading_level = 0
        self._lists: list[int | None] = []
        self._mark = ""
        self._tight = False
        self._row: list[str] | None = None

    def write(self, token: "Token") -> None:
        """Take one token: containers change the state, leaves give text."""
        kind = token.type
        if kind == "heading_open":
            self._heading_level = int(token.tag[1])
        elif kind == "inline":
            self._inline(token)
        elif kind in ("fence", "code_block"):
            self._add(token.content.rstrip("\n"))
        elif kind == "html_block":
            self._add(_html_text(token.content).strip())
        elif kind in ("bullet_list_open", "ordered_list_open"):
            first = int(token.attrGet("start") or 1)
            self._lists.append(first if kind.startswith("ordered") else None)
        elif kind in ("bullet_list_close", "ordered_list_close"):
            self._lists.pop()
        elif kind == "list_item_open":
            self._open_item()
        elif kind == "tr_open":
            self._row = []
        elif kind == "tr_close":
            row, self._row = self._row or [], None
            self._budget.cells(len(row))
            self._add(" | ".join(row), tight=True)

    def finish(self) -> list[Section]:
        """Everything written, by section."""
        self._close_section()
        return self._sections

    def _inline(self, token: "Token") -> None:
        text = _inline_text(token.children or [])
        if self._row is not None:
            self._row.append(text.strip())
        elif self._heading_level:
            self._close_section()
            self._headings.enter(self._heading_level, text)
            self._heading_level = 0
            self._add(text)
        else:
            self._add(text)

    def _open_item(self) -> None:
        number = self._lists[-1]
        indent = "  " * min(len(self._lists) - 1, 8)
        self._mark = f"{indent}- " if number is None else f"{indent}{number}. "
        if number is not None:
            self._lists[-1] = number + 1

    def _add(self, text: str, tight: bool = False) -> None:
        if text:
            tight = tight or bool(self._mark)
            self._parts.append(("\n" if tight and self._tight else "\n\n") + self._mark + text)
            self._tight = tight
            self._mark = ""

    def _close_section(self) -> None:
        self._budget.check()
        self._sections.append(Section("".join(self._parts), title=self._headings.path))
        self._parts.clear()


def _inline_text(tokens: Sequence["Token"]) -> str:
    parts: list[str] = []
    link_starts: list[tuple[int, str]] = []
    words = False
    for token in tokens:
        if token.type in ("text", "code_inline"):
            parts.append(token.content)
            words = words or bool(token.content.strip())
        elif token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif token.type == "image":
            parts.append(_inline_text(token.children or []))
        elif token.type == "html_inline" and token.content.lower().startswith("<br"):
            parts.append("\n")
        elif token.type == "link_open":
            link_starts.append((len(parts), str(token.attrGet("href") or "")))
            words = False
        elif token.type == "link_close":
            start, address = link_starts.pop()
            inner = "".join(parts[start:])
            if address.startswith(("http://", "https://")) and words and address not in inner:
                parts.append(f" ({address})")
    return "".join(parts)


def _html_text(source: str) -> str:
    """The text of an HTML block, its tags gone."""
    reader = _TextReader()
    reader.feed(source)
    reader.close()
    return "\n".join(filter(None, (" ".join(line.split()) for line in "".join(reader.parts).split("\n"))))


class _TextReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style")
        if tag in ("br", "p", "div", "tr", "li") or tag[0] == "h":
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)
