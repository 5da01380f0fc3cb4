"""Articles out of a Wikipedia dump (pages-articles XML, `.bz2` or not), as LLaMA took them from June to August 2022.

Articles are what lies in namespace 0 and is no redirect; other pages are counted and dropped. A page that is broken is
dropped by itself; a dump that is cut off gives the pages before that place, and says so.
"""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from arriero.corpus.document import Document
from arriero.corpus.dumps import Dump, parse_record

_CODES = "bg ca cs da de en es fr hr hu it nl pl pt ro ru sl sr sv uk"
LANGUAGES = tuple(_CODES.split())
"""Of LLaMA's Wikipedia (section 2.1)."""
LICENCE = "CC-BY-SA-3.0"
"""Of Wikipedia's text, until June 2023; later dumps are CC-BY-SA-4.0."""
_NAMESPACES = {"6": "File", "14": "Category"}
"""Those whose links the cleaner must know, by what English calls them."""


@dataclass(frozen=True)
class _Site:
    """What a dump says of itself."""

    language: str | None = None
    articles: str = ""
    """Address that an article's title is put behind."""
    local: re.Pattern[str] | None = None
    """What begins a link into a namespace of `_NAMESPACES`; the group that matches has its English name."""

    def canonical(self, wikitext: str) -> str:
        """Links to files and categories under their English names, which every wiki understands."""
        return self.local.sub(lambda found: f"[[{found.lastgroup}:", wikitext) if self.local else wikitext


def read_wikipedia(path: Path, name: str) -> Iterator[Document]:
    """The pages of a dump, as wikitext; ids end in the page's place in the dump, counted from 1.

    Raises:
        FormatError: the file is no dump of MediaWiki.
        MissingExtraError: lxml is not installed.
    """
    dump = Dump(path, "mediawiki", b"<page>", b"</page>")
    site: _Site | None = None
    for number, (data, reason) in enumerate(dump.records(), 1):
        site = site or _read_site(dump.head)
        document = Document(id=f"{name}#{number}", text="", origin=str(path), licence=LICENCE)
        page = None
        if reason is None:
            page, reason = parse_record(data)
            if reason and ":" in reason:  # of the bytes, not of Wikipedia
                yield document.drop(reason)
                continue
        yield document.drop(f"wikipedia: {reason}") if reason else _read_page(page, site, document)


def _read_site(head: bytes) -> _Site:
    root, reason = parse_record(head.strip() + b"</mediawiki>")
    if reason:
        return _Site()
    code = root.findtext(".//{*}dbname") or ""
    language = root.get("{http://www.w3.org/XML/1998/namespace}lang") or code.removesuffix("wiki") or None
    base = (root.findtext(".//{*}base") or "").strip()
    names = {entry.get("key"): (entry.text or "").strip() for entry in root.iterfind(".//{*}namespace")}
    groups = [f"(?P<{english}>{re.escape(names[key])})" for key, english in _NAMESPACES.items() if names.get(key)]
    local = re.compile(rf"\[\[[ \t]*(?:{'|'.join(groups)})[ \t]*:", re.IGNORECASE) if groups else None
    return _Site(language, f"{base.rpartition('/')[0]}/" if base else "", local)


def _read_page(page: Any, site: _Site, document: Document) -> Document:
    title = (page.findtext("title") or "").strip()
    metadata = {"title": title, "page": (page.findtext("id") or "").strip()}
    if site.language:
        metadata["language"] = site.language
    document = document.with_metadata(**metadata)
    if site.articles:
        document = dataclasses.replace(document, origin=site.articles + quote(title.replace(" ", "_")))
    if (page.findtext("ns") or "0").strip() != "0":
        return document.drop("wikipedia: not an article (namespace)")
    if page.find("redirect") is not None:
        return document.drop("wikipedia: redirect")
    if (page.findtext("revision/model") or "wikitext").strip() != "wikitext":
        return document.drop("wikipedia: not wikitext")
    text = page.findtext("revision/text") or ""
    return document.with_text(site.canonical(text)) if text.strip() else document.drop("empty")
