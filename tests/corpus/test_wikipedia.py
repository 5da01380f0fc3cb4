"""Wikipedia: exact counts of real dumps, where pages come from, and damage told."""

import bz2
import re
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("lxml")

from arriero.corpus.document import Document
from arriero.corpus.wikipedia import LANGUAGES, read_wikipedia
from arriero.corpus.wikitext import clean_wikitext

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="de"><siteinfo>
<base>https://de.wikipedia.org/wiki/Start</base><namespaces><namespace key="6">Datei</namespace>
<namespace key="14">Kategorie</namespace></namespaces></siteinfo>"""


def page(title: str, text: str, ns: int = 0, extra: str = "") -> str:
    return f"<page><title>{title}</title><ns>{ns}</ns><id>7</id>{extra}<revision><text>{text}</text></revision></page>"


def read(path: Path, *pages: str, end: str = "</mediawiki>") -> list[Document]:
    path.write_text(f"{HEAD}{''.join(pages)}{end}", encoding="utf-8")
    return list(read_wikipedia(path, "x"))


@pytest.mark.parametrize(
    ("name", "articles", "redirects", "others", "bare"), [("tinywiki", 8, 0, 0, 1), ("smallwiki", 903, 147, 954, 7)]
)
def test_real_dumps_give_exactly_these(
    data_folder: Path, name: str, articles: int, redirects: int, others: int, bare: int
) -> None:
    path = data_folder / "corpus" / "wikipedia" / f"{name}-latest-pages-articles.xml"
    found = list(read_wikipedia(path, name))
    expected = {None: articles, "wikipedia: redirect": redirects, "wikipedia: not an article (namespace)": others}
    assert Counter(document.dropped for document in found) == Counter(expected)
    assert len({document.id for document in found}) == len(found)
    cleaned = [document for document in clean_wikitext()(found) if document.dropped not in list(expected)[1:]]
    assert Counter(document.dropped for document in cleaned) == {
        None: articles - bare,
        "wikitext: no text but markup": bare,
    }
    marks = re.compile(r"\[\[|\{\{|\]\]|\}\}|^\||<ref|thumb\|", re.MULTILINE)
    assert not [document.id for document in cleaned if not document.dropped and marks.search(document.text)]


def test_a_page_knows_where_it_comes_from(tmp_path: Path) -> None:
    (document,) = read(tmp_path / "x.xml", page("Über Lamas", "Text"))
    assert document.origin == "https://de.wikipedia.org/wiki/%C3%9Cber_Lamas"
    assert document.metadata == {"title": "Über Lamas", "page": "7", "language": "de"}
    assert document.licence == "CC-BY-SA-3.0"


def test_local_names_of_files_and_categories_are_known(tmp_path: Path) -> None:
    raw = read(tmp_path / "x.xml", page("T", "Text [[Datei:x.jpg|mini|Bild]][[kategorie: Tiere]] Ende"))
    (document,) = clean_wikitext()(raw)
    assert document.text == "T\n\nText Ende"


def test_redirects_other_pages_and_empty_ones_are_counted(tmp_path: Path) -> None:
    pages = (page("A", "x", extra='<redirect title="B"/>'), page("B", "x", ns=10), page("C", " "), page("D", "x"))
    assert [document.dropped for document in read(tmp_path / "x.xml", *pages)] == [
        "wikipedia: redirect",
        "wikipedia: not an article (namespace)",
        "empty",
        None,
    ]


def test_a_broken_page_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    pages = [page("A", "a"), page("B", "caf\u00e9"), page("C", "</b>"), page("D", "d").removesuffix("</page>")]
    whole = f"{HEAD}{''.join(pages)}{page('E', 'e')}</mediawiki>".encode()
    path.write_bytes(whole.replace("\u00e9".encode(), b"\xe9"))
    found = [(document.id, document.dropped or document.text) for document in read_wikipedia(path, "x")]
    assert found == [
        ("x#1", "a"),
        ("x#2", "utf-8: invalid"),
        ("x#3", "wikipedia: broken record"),
        ("x#4", "wikipedia: broken record"),
        ("x#5", "e"),
    ]


@pytest.mark.parametrize("suffix", ["xml", "xml.bz2"])
def test_a_dump_that_is_cut_off_gives_what_it_holds_and_says_so(tmp_path: Path, suffix: str) -> None:
    whole = HEAD + "".join(page(f"T{number}", f"text {number} " * 2000) for number in range(300))
    data = whole.encode()[:-200]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(bz2.compress(data)[:-500] if suffix.endswith("bz2") else data)
    found = list(read_wikipedia(path, "x"))
    assert len(found) == 300 if suffix == "xml" else len(found) > 1
    assert found[0].text.startswith("text 0")
    assert [document.dropped for document in found[:-1]] == [None] * (len(found) - 1)
    assert found[-1].dropped == "wikipedia: the dump is cut off or broken from here on"


def test_llamas_twenty_languages() -> None:
    assert " ".join(LANGUAGES) == "bg ca cs da de en es fr hr hu it nl pl pt ro ru sl sr sv uk"
