"""Articles out of a Wikipedia dump (pages-articles XML, `.bz2` or not), as LLaMA took them from June to August 2022.

Articles are what lies in namespace 0 and is no redirect; other pages are counted and dropped. A dump that is cut off or
broken gives the pages before that place, and says so.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urljoin

from arriero.common.compression import DAMAGE, open_bytes
from arriero.common.errors import require
from arriero.corpus.decoding import refuse_dtd
from arriero.corpus.document import MAX_BYTES, Document

_CODES = "bg ca cs da de en es fr hr hu it nl pl pt ro ru sl sr sv uk"
LANGUAGES = tuple(_CODES.split())
"""Of LLaMA's Wikipedia (section 2.1)."""
LICENCE = "CC-BY-SA-3.0"
"""Of Wikipedia's text, until June 2023; later dumps are CC-BY-SA-4.0."""
_NAMESPACES = {"6": "File", "14": "Category"}
"""Those whose links the cleaner must know, by what English calls them."""


@dataclass
class _Site:
    """What a dump says of itself."""

    language: str | None = None
    base: str = ""
    local: re.Pattern[str] | None = None
    names: dict[str, str] | None = None

    def canonical(self, wikitext: str) -> str:
        """Links to files and categories under their English names, which every wiki understands."""
        if self.local is None or self.names is None:
            return wikitext
        names = self.names
        return self.local.sub(lambda found: f"[[{names[found[1].lower()]}:", wikitext)


def read_wikipedia(path: Path, name: str) -> Iterator[Document]:
    """The pages of a dump, as wikitext; ids end in the page's number in the dump.

    Raises:
        MissingExtraError: lxml is not installed.
    """
    etree = require("lxml.etree", extra="corpus", purpose="reading Wikipedia dumps")
    with open_bytes(path) as (content, _):
        refuse_dtd(path, content)
        site, number = _Site(), 0
        try:
            for element in _elements(etree, content):
                if element.tag.endswith("}siteinfo") or element.tag == "siteinfo":
                    site = _read_site(element)
                    continue
                number += 1
                yield _read_page(element, site, f"{name}#{number}", str(path))
        except (etree.XMLSyntaxError, *DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            damaged = Document(id=f"{name}#{number + 1}", text=str(error), origin=str(path))
            yield damaged.drop("wikipedia: the dump is cut off or broken from here on")


def _elements(etree: Any, content: IO[bytes]) -> Iterator[Any]:
    """Pages and the site's description, each dropped from memory when the next is asked for."""
    tags = [f"{{*}}{tag}" for tag in ("page", "siteinfo")]
    for _, element in etree.iterparse(
        content, tag=tags, huge_tree=True, resolve_entities=False, no_network=True, load_dtd=False
    ):
        yield element
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]


def _read_site(element: Any) -> _Site:
    root = element.getparent()
    language = root.get("{http://www.w3.org/XML/1998/namespace}lang") if root is not None else None
    found = element.findall(".//{*}namespace")
    names = {
        (entry.text or "").strip().lower(): _NAMESPACES[key]
        for entry in found
        if (key := entry.get("key")) in _NAMESPACES
    }
    names = {local: english for local, english in names.items() if local}
    listed = "|".join(map(re.escape, names))
    local = re.compile(rf"\[\[\s*({listed})\s*:", re.IGNORECASE) if names else None
    return _Site(language, (element.findtext("{*}base") or "").strip(), local, names)


def _read_page(page: Any, site: _Site, identity: str, path: str) -> Document:
    title = (page.findtext("{*}title") or "").strip()
    metadata: dict[str, Any] = {"title": title, "page": (page.findtext("{*}id") or "").strip()}
    if site.language:
        metadata["language"] = site.language
    document = Document(
        id=identity,
        text="",
        origin=urljoin(site.base, quote(title.replace(" ", "_"))) if site.base else path,
        licence=LICENCE,
        metadata=metadata,
    )
    if (page.findtext("{*}ns") or "0").strip() != "0":
        return document.drop("wikipedia: not an article (namespace)")
    if page.find("{*}redirect") is not None:
        return document.drop("wikipedia: redirect")
    text = page.findtext("{*}revision/{*}text") or ""
    if len(text) > MAX_BYTES:
        return document.drop("wikipedia: longer than 64 MiB")
    return document.with_text(site.canonical(text)) if text.strip() else document.drop("empty")
