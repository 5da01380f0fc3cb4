"""From a web page to its text: the title on the first line, as in CommonCrawl's WET files, then the main content.

Two extractors: both leave navigation out; resiliparse is many times as fast, trafilatura loses fewer of an article's
lists of links, such as a change log's. Both are given only pages whose nesting they can stand: a hostile page makes any
HTML parser take quadratic time and memory. The check is an estimate by tags, not a parser: it catches what is found in
crawls, not every page that is made to deceive it.
"""

import re
from collections import Counter
from typing import Any, Literal

from arriero.common.errors import require
from arriero.corpus.document import Document, Each

Extractor = Literal["resiliparse", "trafilatura"]
MAX_NODES = 10_000_000
"""Greatest depth times number of tags: what a parser may come to make of a page."""
_FEW, _SHORT = 3000, 1 << 16
"""Tags and characters of a page that is never looked at more closely."""
_TAG = re.compile(r"""<(/?)([a-z][a-z0-9]*)(?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+""", re.IGNORECASE)
"""A tag up to its `>`; quotes count after `=` alone, as in HTML."""
_VALUE = re.compile(r"""=\s*+(?:"[^"]*+"|'[^']*+')""")
_SEPARATORS = re.compile(r"[\s/]+")
_FLAT_NAMES = (
    "area base br col embed hr img input link meta source track wbr p li dt dd tr td th tbody thead tfoot option"
)
_FLAT = frozenset(_FLAT_NAMES.split())
"""Tags that hold nothing, or end by themselves when the next begins."""


def web_text(extractor: Extractor = "resiliparse") -> Each:
    """The step; documents that are text already (WET, `text/plain`) pass as they are."""
    extract = _resiliparse if extractor == "resiliparse" else _trafilatura

    def to_text(document: Document) -> Document:
        if "html" not in document.metadata.get("content_type", ""):
            return document
        if nodes(document.text) > MAX_NODES:
            return document.drop("html: nested too deeply")
        title, text = extract(document.text)
        if not text.strip():
            return document.drop("html: no text on the page")
        title = " ".join(title.split())
        if title and not text.lstrip().startswith(title):
            text = f"{title}\n{text}"
        return document.with_text(text.strip()).with_metadata(**({"title": title} if title else {}))

    return Each(f"text by {extractor}", to_text)


def nodes(html: str) -> int:
    """An estimate of the work that a page makes for a parser, in elements.

    Each element is counted with all that are open around it, which a parser may have to open again. Each option of a
    page is compared with those before it, and each attribute with those of its tag; 25 times that is as quick as an
    element.
    """
    tags = html.count("<")
    if tags <= _FEW and len(html) <= _SHORT:
        return tags
    depth = deepest = options = attributes = 0
    is_open: Counter[str] = Counter()
    for found in _TAG.finditer(html):
        closing, name = found[1], found[2].lower()
        if found.end() - found.start() >= _SHORT // 2:
            attributes = max(attributes, len(_SEPARATORS.findall(_VALUE.sub("= ", found[0]))))
        if name in _FLAT:
            options += name == "option"
        elif not closing:
            is_open[name] += 1
            depth += 1
            deepest = max(deepest, depth)
        elif is_open[name]:
            is_open[name] -= 1
            depth -= 1
    return max(tags * max(1, deepest), max(options, attributes) ** 2 // 25)


def _resiliparse(html: str) -> tuple[str, str]:
    parser = require("resiliparse.parse.html", extra="corpus", purpose="reading web pages")
    extraction = require("resiliparse.extract.html2text", extra="corpus", purpose="reading web pages")
    tree = parser.HTMLTree.parse(html)
    text = extraction.extract_plain_text(tree, preserve_formatting=True, main_content=True, alt_texts=False)
    return tree.title or "", re.sub(r"\n{2,}", "\n", text)


def _trafilatura(html: str) -> tuple[str, str]:
    trafilatura = require("trafilatura", extra="corpus", purpose="reading web pages with trafilatura")
    found: Any = trafilatura.bare_extraction(html, with_metadata=True, include_comments=False, fast=True)
    return (found.title or "", found.text or "") if found is not None else ("", "")
