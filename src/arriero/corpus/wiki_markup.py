"""Wikitext without its markup, in one pass from left to right.

Marks that enclose something ({{…}}, [[…]], {|…|}) are kept on a stack; what is inside becomes text when they close. An
end without a beginning vanishes; a beginning without an end vanishes too, and what follows it is text. Every character
is looked at a bounded number of times, whatever the nesting: beyond MediaWiki's own limits a page is refused.
"""

import re

from arriero.corpus.wiki_names import FILES, NAMESPACES, PROJECTS
from arriero.corpus.wiki_templates import SUBSCRIPTS, SUPERSCRIPTS, render

MAX_DEPTH = 100
"""Marks inside of each other; MediaWiki expands 40."""
_MARK = re.compile(
    r"\{\{+|\}\}+|\[\[|\]\]|\||\[(?:https?:|ftp:|mailto:|//)[^\s\]<>{|\[]*[ \t]*|\]|<!--"
    r"|<(/?)([a-zA-Z][a-zA-Z0-9]*)(\s[^<>]*|/)?>|\n[ \t:*#]*(?:\{\||\|\}(?!\}))"
)
_LONGEST_NAME = 100
"""Characters of a template's name."""
_CELLS = re.compile(r"\A[^\n]*|\n[ \t]*[|!][^\n]*")
"""Lines of a table that never ends: its attributes, rows and cells."""
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*|simple")
_SCRIPT = re.compile(r"([0-9+\-−=()n]{1,12})</su([bp])>", re.IGNORECASE)

_DROPPED_NAMES = (
    "ref references gallery timeline imagemap score style script templatestyles mapframe maplink graph section "
    "indicator inputbox categorytree hiero noinclude includeonly"
)
_DROPPED = frozenset(_DROPPED_NAMES.split())
_VERBATIM_NAMES = "nowiki pre syntaxhighlight source math chem ce"
_VERBATIM = frozenset(_VERBATIM_NAMES.split())
_BLOCK_NAMES = "br hr p div blockquote center poem ul ol dl dt dd tr td th caption h1 h2 h3 h4 h5 h6"
_BLOCKS = frozenset(_BLOCK_NAMES.split())
"""Tags that end a line."""
_INLINE_NAMES = (
    "b i u s em strong small big sub sup span font tt code var kbd samp cite abbr q del ins strike bdi bdo dfn mark "
    "ruby rb rt rp data time wbr a onlyinclude thead tbody tfoot col colgroup li table"
)
_INLINE = frozenset(_INLINE_NAMES.split())
_TAGS = _DROPPED | _VERBATIM | _BLOCKS | _INLINE
_ENDS = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _DROPPED | _VERBATIM}


class NestingError(ValueError):
    """Marks inside of each other without end."""


class _Open:
    """A mark that is not closed yet, and what follows it so far."""

    __slots__ = ("count", "kind", "parts", "pieces")

    def __init__(self, kind: str, count: int = 0) -> None:
        self.kind = kind
        """{ for braces, [ for a link, | for a table; nothing for the page."""
        self.count = count
        """Braces that are open."""
        self.pieces: list[str] = []
        self.parts = [self.pieces]
        """Texts between bars; the last one is `pieces`."""

    def part(self) -> None:
        self.pieces = []
        self.parts.append(self.pieces)


class Scanner:
    """One page's text.

    Args:
        wikitext: the page.

    Attributes:
        verbatim: texts that are no markup (nowiki, pre, math, code); in the result, NUL, index, NUL stands for one.
    """

    def __init__(self, wikitext: str) -> None:
        self.verbatim: list[str] = []
        self._text = "\n" + wikitext.replace("\x00", "")
        self._stack = [_Open("")]
        self._open = {"{": 0, "[": 0, "|": 0}
        self._endless: set[str] = set()  # tags of which no more ends follow
        self._addresses, self._line_end = 0, 0  # [http://… that await their ], all on one line
        self._actions = {
            "{": self._braces,
            "}": self._end_braces,
            "[": self._bracket,
            "]": self._end_bracket,
            "|": self._bar,
            "<": self._tag,
            "\n": self._table,
        }

    def scan(self) -> str:
        """The text without markup.

        Raises:
            NestingError: beyond `MAX_DEPTH`.
        """
        text, search, position = self._text, _MARK.search, 0
        while found := search(text, position):
            start = found.start()
            if start > position:
                self._stack[-1].pieces.append(text[position:start])
            position = self._actions[text[start]](found)
        self._stack[-1].pieces.append(text[position:])
        while len(self._stack) > 1:
            self._give_up()
        return "".join(self._stack[0].pieces)

    def _emit(self, text: str) -> None:
        self._stack[-1].pieces.append(text)

    def _push(self, opened: _Open) -> None:
        if len(self._stack) > MAX_DEPTH:
            raise NestingError(f"more than {MAX_DEPTH} marks inside of each other")
        self._stack.append(opened)
        self._open[opened.kind] += 1

    def _pop(self, kind: str) -> _Open | None:
        """The innermost open mark of a kind; those within it never end."""
        if not self._open[kind]:
            return None
        while self._stack[-1].kind != kind:
            self._give_up()
        self._open[kind] -= 1
        return self._stack.pop()

    def _give_up(self) -> None:
        """The innermost mark never ends: what it holds is text after all."""
        opened = self._stack.pop()
        self._open[opened.kind] -= 1
        if opened.kind == "|":
            self._emit(_CELLS.sub("", "".join(opened.pieces)))
            return
        if opened.kind == "{" and len(opened.parts) > 1 and sum(map(len, opened.parts[0])) < _LONGEST_NAME:
            opened.parts[0] = []
        for index, part in enumerate(opened.parts):
            self._stack[-1].pieces += ["|", *part] if index else part

    def _braces(self, found: re.Match[str]) -> int:
        self._push(_Open("{", found.end() - found.start()))
        return found.end()

    def _end_braces(self, found: re.Match[str]) -> int:
        """Three braces on both sides are an argument (its default stays), two a template."""
        closing = found.end() - found.start()
        while closing >= 2 and (opened := self._pop("{")):
            first, *others = ("".join(part) for part in opened.parts)
            if opened.count >= 3 and closing >= 3:
                text, used = "".join(others[:1]), 3
            else:
                text, used = render(first, others), 2
            closing -= used
            opened.count -= used
            if opened.count < 2:
                self._emit("{" * opened.count + text)
                continue
            outer = _Open("{", opened.count)
            outer.pieces.append(text)
            self._push(outer)
        return found.end()

    def _bracket(self, found: re.Match[str]) -> int:
        if found[0] == "[[":
            self._push(_Open("["))
            return found.end()
        if found.start() >= self._line_end:
            end = self._text.find("\n", found.start())
            self._addresses, self._line_end = 0, end if end >= 0 else len(self._text)
        self._addresses += 1
        return found.end()

    def _end_bracket(self, found: re.Match[str]) -> int:
        if found[0] == "]]":
            if opened := self._pop("["):
                self._emit(_link(["".join(part) for part in opened.parts]))
        elif self._addresses and found.start() < self._line_end:
            self._addresses -= 1
        else:
            self._emit("]")
        return found.end()

    def _bar(self, found: re.Match[str]) -> int:
        top = self._stack[-1]
        if top.kind in ("{", "["):
            top.part()
        else:
            top.pieces.append("|")
        return found.end()

    def _table(self, found: re.Match[str]) -> int:
        if self._text[found.end() - 1] == "|":
            self._emit("\n")
            self._push(_Open("|"))
        else:
            self._pop("|")
            self._emit("\n")
        return found.end()

    def _tag(self, found: re.Match[str]) -> int:
        if found[0] == "<!--":
            return self._comment(found)
        name, opening = found[2].lower(), not found[1]
        if name not in _TAGS:
            self._emit(found[0])
            return found.end()
        if name in _ENDS and opening and not (found[3] or "").endswith("/"):
            return self._enclosed(name, found.end())
        if name in ("sub", "sup") and opening and (script := _SCRIPT.match(self._text, found.end())):
            self._emit(script[1].translate(SUPERSCRIPTS if name == "sup" else SUBSCRIPTS))
            return script.end()
        if name == "table":
            self._emit("\n")
            if opening:
                self._push(_Open("|"))
            else:
                self._pop("|")
        elif name == "li":
            self._emit("\n* " if opening else "\n")
        elif name in _BLOCKS:
            self._emit("\n")
        return found.end()

    def _enclosed(self, name: str, start: int) -> int:
        """A tag whose content is no wikitext: kept as it is, or dropped. Without its end it is nothing but a tag."""
        end = None if name in self._endless else _ENDS[name].search(self._text, start)
        if end is None:
            self._endless.add(name)
            return start
        if name in _VERBATIM:
            block = "\n" if name in ("pre", "syntaxhighlight", "source") else ""
            self._emit(f"{block}\x00{len(self.verbatim)}\x00{block}")
            self.verbatim.append(self._text[start : end.start()])
        return end.end()

    def _comment(self, found: re.Match[str]) -> int:
        """One that stands alone takes its line with it."""
        end = self._text.find("-->", found.end())
        end = end + 3 if end >= 0 else len(self._text)
        pieces = self._stack[-1].pieces
        if pieces and pieces[-1].endswith("\n") and self._text.startswith("\n", end):
            pieces[-1] = pieces[-1][:-1]
        return end


def _link(parts: list[str]) -> str:
    """What is shown of a link."""
    title, *labels = parts
    title = title.strip()
    label = "|".join(labels)
    if title.startswith(":"):
        title = title[1:]
    else:
        prefix, colon, _ = title.partition(":")
        prefix = prefix.strip()
        language = _LANGUAGE.fullmatch(prefix) is not None and prefix not in PROJECTS
        if colon and (language or prefix.lower() in NAMESPACES or title.lower().endswith(FILES)):
            return ""
    if title.startswith(("http://", "https://")):
        return title.partition(" ")[2] or label
    return label if label.strip() else title.partition("#")[0] or title.lstrip("#")
