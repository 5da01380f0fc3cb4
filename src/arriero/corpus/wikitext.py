"""From wikitext to text: links, comments, tables, references and other boilerplate go (LLaMA, section 2.1).

`mwparserfromhell` takes the markup apart; what becomes of each part is said here. Templates that only dress a text or a
number keep it ({{lang|fr|mot}}, {{convert|5|km}}); all others go. Sections of references and links go whole.
"""

import re
from collections.abc import Iterator
from typing import Any

from arriero.common.errors import require
from arriero.corpus.document import Document, Each

MAX_OPEN = 2_000
"""Opening brackets and braces that may be left without their closing ones: beyond, a page is no article."""

_DROPPED_TAGS_NAMES = "ref gallery table timeline imagemap references score style script noinclude templatestyles"
_DROPPED_TAGS = frozenset(_DROPPED_TAGS_NAMES.split())
_DROPPED_LINKS = ("file:", "image:", "category:", "media:", "special:", "template:")
_LANGUAGE_LINK = re.compile(r"^[a-z]{2,3}(?:-[a-z]+)*:")
_MAGIC = re.compile(r"__[A-Z]{3,}__")
_EMPTY = re.compile(r"\(\s*[,;]?\s*\)\s?")
_LEFT_OVER = ("{{", "}}", "{|", "|", "!")
"""What a line begins with that belongs to a template or table which is never closed."""
_BLANK_LINES = re.compile(r"\n{3,}")

_FIRST_NAMES = (
    "nowrap small big sc smallcaps abbr tooltip nobold noitalic em strong sub sup nihongo formatnum formatnum: "
    "val num number lc uc ucfirst lcfirst plainlist ubl flatlist quote blockquote cquote bq unbulleted_list "
    "center not_a_typo as_of circa c. ca. fl. born died"
)
_FIRST = frozenset(_FIRST_NAMES.split())
"""Templates whose first argument is the text."""
_LAST_NAMES = "lang langue lang-x transl transliteration dts font color colour fontcolor"
_LAST = frozenset(_LAST_NAMES.split())
"""Those whose last argument is."""
_FRACTIONS_NAMES = "frac fraction sfrac"
_FRACTIONS = frozenset(_FRACTIONS_NAMES.split())
_QUANTITIES_NAMES = "convert cvt unit unité unidad einheit"
_QUANTITIES = frozenset(_QUANTITIES_NAMES.split())
_DATES_NAMES = "birth_date death_date start_date end_date date birth_date_and_age death_date_and_age"
_DATES = frozenset(_DATES_NAMES.split())

_END_NAMES = (
    "references|external links|see also|further reading|notes|bibliography|sources|footnotes|"  # en
    "einzelnachweise|weblinks|siehe auch|literatur|quellen|anmerkungen|"  # de
    "références|liens externes|voir aussi|bibliographie|notes et références|annexes|"  # fr
    "referencias|enlaces externos|véase también|bibliografía|notas|"  # es
    "note|collegamenti esterni|voci correlate|bibliografia|altri progetti|"  # it
    "referências|ligações externas|ver também|bibliografia|notas e referências|"  # pt
    "referències|enllaços externs|vegeu també|bibliografia|"  # ca
    "externe links|zie ook|bronnen|literatuur|referenties|"  # nl
    "przypisy|linki zewnętrzne|zobacz też|bibliografia|"  # pl
    "reference|externí odkazy|související články|literatura|poznámky|"  # cs
    "referencer|eksterne henvisninger|se også|kilder|litteratur|"  # da
    "referenser|externa länkar|se även|källor|litteratur|"  # sv
    "источники|ссылки|см. также|примечания|литература|"  # ru
    "джерела|посилання|див. також|примітки|література|"  # uk
    "източници|външни препратки|вижте също|бележки|литература|"  # bg
    "извори|спољашње везе|види још|референце|литература|"  # sr
    "izvori|vanjske poveznice|povezani članci|bilješke|literatura|"  # hr
    "viri|zunanje povezave|glej tudi|sklici|opombe|literatura|"  # sl
    "források|külső hivatkozások|lásd még|jegyzetek|irodalom|"  # hu
    "referințe|legături externe|vezi și|bibliografie|note"  # ro
)
_END = frozenset(_END_NAMES.split("|"))


def clean_wikitext() -> Each:
    """The step: an article's text, its title on the first line."""
    return Each("wikitext", _clean)


def _clean(document: Document) -> Document:
    if hostile(document.text):
        return document.drop("wikitext: nested without end")
    text = to_text(document.text)
    if not text:
        return document.drop("wikitext: no text but markup")
    title = document.metadata.get("title")
    return document.with_text(f"{title}\n\n{text}" if title else text)


def hostile(wikitext: str) -> bool:
    """Whether far more is opened than closed: each opening costs the parser a try, and another for those within."""
    closed = 2 * wikitext.count("</") + sum(map(wikitext.count, ("/>", "<br", "<!--")))
    pairs = (("{{", "}}"), ("[", "]"), ("{|", "|}"), ("<", ">"))
    return wikitext.count("<") - closed > MAX_OPEN or any(
        wikitext.count(opening) - wikitext.count(closing) > MAX_OPEN for opening, closing in pairs
    )


def to_text(wikitext: str) -> str:
    """An article's text: a line for each heading, paragraph and item."""
    parser = require("mwparserfromhell", extra="corpus", purpose="reading Wikipedia's articles")
    code = parser.parse(_MAGIC.sub("", wikitext), skip_style_tags=True)
    text = "".join(_without_ends(code.nodes))
    text = text.replace("'''", "").replace("''", "")
    lines = (_line(line) for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def _line(line: str) -> str:
    """A line without what is left of marks at its beginning."""
    bare = " ".join(line.split())
    if bare.startswith(_LEFT_OVER) or bare in ("-", "- -", "()", "."):
        return ""
    return _EMPTY.sub("", bare)


def _without_ends(nodes: list[Any]) -> Iterator[str]:
    """The texts of the nodes, sections of references and the like left out."""
    skipped = 0  # level of the heading whose section is left out
    for node in nodes:
        if type(node).__name__ == "Heading":
            title = "".join(map(_text, node.title.nodes)).strip()
            if skipped and node.level > skipped:
                continue
            skipped = node.level if title.lower() in _END else 0
            if not skipped:
                yield f"\n\n{title}\n"
        elif not skipped:
            yield _text(node)


def _text(node: Any) -> str:
    """What stays of a part of the markup."""
    match type(node).__name__:
        case "Text":
            return str(node.value)
        case "Wikilink":
            return _link(node)
        case "ExternalLink":
            return _inner(node.title) if node.title is not None else "" if node.brackets else str(node.url)
        case "Template":
            return _template(node)
        case "Tag":
            return _tag(node)
        case "HTMLEntity":
            return str(node.normalize())
        case "Heading":
            return f"\n\n{_inner(node.title)}\n"
        case _:  # comments, and arguments of templates
            return ""


def _inner(code: Any) -> str:
    return "".join(map(_text, code.nodes)) if code is not None else ""


def _link(node: Any) -> str:
    title = str(node.title).strip()
    if title.lower().startswith(_DROPPED_LINKS) or _LANGUAGE_LINK.match(title):
        return ""
    return _inner(node.text) if node.text is not None else title.lstrip(":").partition("#")[0] or title.lstrip("#")


def _tag(node: Any) -> str:
    name = str(node.tag).strip().lower()
    if name in _DROPPED_TAGS:
        return ""
    if name == "br":
        return "\n"
    if name == "li":
        return "- "
    if name in ("dd", "dt", "hr"):
        return ""
    contents = _inner(node.contents)
    return f"\n{contents}\n" if name in ("p", "div", "blockquote", "pre", "poem") else contents


def _template(node: Any) -> str:
    name = " ".join(str(node.name).split()).lower().replace(" ", "_")
    arguments = [_inner(argument.value).strip() for argument in node.params if not argument.showkey]
    if name.startswith("formatnum:"):
        return name.removeprefix("formatnum:")
    if name.startswith("lang-"):
        name = "lang-x"
    if not arguments:
        return ""
    if name in _FIRST:
        return arguments[0]
    if name in _LAST:
        return arguments[1] if name in ("lang", "langue") and len(arguments) > 1 else arguments[-1]
    if name in _FRACTIONS:
        return " ".join(filter(None, (arguments[0] if len(arguments) == 3 else "", "/".join(arguments[-2:]))))
    if name in _QUANTITIES:
        return " ".join(arguments[:2])
    if name in _DATES:
        return "-".join(argument.zfill(2) for argument in arguments[:3])
    return ""
