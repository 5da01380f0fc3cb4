"""From a web page to its text: the title on the first line, as in CommonCrawl's WET files, then the main content.

Two extractors: resiliparse is fast, trafilatura drops more of what is no running text. Both are given only pages whose
nesting they can stand: a hostile page makes any HTML parser take quadratic time and memory.
"""

import re
from typing import Any, Literal

from arriero.common.errors import require
from arriero.corpus.document import Document, Each

Extractor = Literal["resiliparse", "trafilatura"]
MAX_NODES = 10_000_000
"""Greatest depth times number of tags: what a parser may come to make of a page."""
_FEW = 3000
"""Tags of a page that is never looked at for its depth."""
_TAG = re.compile(r"<(/?)([a-z][a-z0-9]*)", re.IGNORECASE)
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
    """An upper estimate of the elements that a parser makes of a page."""
    tags = html.count("<")
    if tags <= _FEW:
        return tags
    depth = deepest = 0
    for found in _TAG.finditer(html):
        if found[2].lower() not in _FLAT:
            depth = max(0, depth - 1) if found[1] else depth + 1
            deepest = max(deepest, depth)
    return tags * max(1, deepest)


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
