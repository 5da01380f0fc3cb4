"""Wikipedia: exact counts of real dumps, damage told, and what becomes of each kind of markup."""

import bz2
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lxml")
pytest.importorskip("mwparserfromhell")

from arriero.corpus.document import Document
from arriero.corpus.wikipedia import LANGUAGES, read_wikipedia
from arriero.corpus.wikitext import clean_wikitext, to_text

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="de"><siteinfo>
<base>https://de.wikipedia.org/wiki/Start</base><namespaces><namespace key="6">Datei</namespace>
<namespace key="14">Kategorie</namespace></namespaces></siteinfo>"""


def page(title: str, text: str, ns: int = 0, extra: str = "") -> str:
    return f"<page><title>{title}</title><ns>{ns}</ns><id>7</id>{extra}<revision><text>{text}</text></revision></page>"


def read(path: Path, *pages: str, end: str = "</mediawiki>") -> list[Document]:
    path.write_text(f"{HEAD}{''.join(pages)}{end}", encoding="utf-8")
    return list(read_wikipedia(path, "x"))


@pytest.mark.parametrize(
    ("name", "articles", "redirects", "others"), [("tinywiki", 8, 0, 0), ("smallwiki", 903, 147, 954)]
)
def test_real_dumps_give_exactly_these(
    data_folder: Path, name: str, articles: int, redirects: int, others: int
) -> None:
    path = data_folder / "corpus" / "wikipedia" / f"{name}-latest-pages-articles.xml"
    found = list(read_wikipedia(path, name))
    expected = {None: articles, "wikipedia: redirect": redirects, "wikipedia: not an article (namespace)": others}
    assert Counter(document.dropped for document in found) == Counter(expected)
    assert len({document.id for document in found}) == len(found)
    cleaned = [document for document in clean_wikitext()(found) if not document.dropped]
    assert len(cleaned) >= 0.87 * articles
    assert sum("[[" in each.text or "{{" in each.text for each in cleaned) <= 0.01 * len(cleaned) + 1


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


@pytest.mark.parametrize(
    ("wikitext", "text"),
    {
        "A [[llama]] and [[Alpaca|some alpacas]] of [[Peru#History|Peru]].": "A llama and some alpacas of Peru.",
        "'''Bold''' and ''italic'' words": "Bold and italic words",
        "Seen<ref name=x>a book</ref> here<ref name=x/>.": "Seen here.",
        "A <!-- hidden --> word": "A word",
        "See [https://x.org the site] or https://y.org now": "See the site or https://y.org now",
        "[[File:a.jpg|thumb|A [[llama]]]]Text[[Category:Animals]]": "Text",
        "Text [[fr:Lama]][[de:Lama]]": "Text",
        "{| class=x\n! a\n|-\n| b\n|}\nText": "Text",
        "{{Infobox|name=x|a=[[b]]}}Text{{cite web|url=x}}": "Text",
        "Called {{lang|fr|le {{nowrap|petit lama}}}} there": "Called le petit lama there",
        "It is {{convert|5|km|mi}} long and {{formatnum:1234}} old": "It is 5 km long and 1234 old",
        "About {{frac|1|2}} or {{frac|3|1|2}} of it": "About 1/2 or 3 1/2 of it",
        "Born {{birth date|1999|2|3}} in Cusco": "Born 1999-02-03 in Cusco",
        "* one\n* two\n# three": "- one\n- two\n- three",
        "Fish &amp; chips&nbsp;here": "Fish & chips here",
        "A __NOTOC__ word": "A word",
        "a<br/>b": "a\nb",
        "x\n== Head ==\ny\n== References ==\n* z\n=== Sub ===\nw\n== After ==\nv": "x\n\nHead\n\ny\n\nAfter\n\nv",
        "x\n== Einzelnachweise ==\n<references />": "x",
        "<nowiki>[[not a link]]</nowiki>": "[[not a link]]",
    }.items(),
)
def test_each_markup_becomes_text(wikitext: str, text: str) -> None:
    assert to_text(wikitext) == text


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["{{", "}}", "[[", "]]", "|", "a", "<ref>", "</ref>", "<", "==", "\n", "{|", "|}", "''", "&"])
    )
)
def test_no_markup_is_an_error(parts: list[str]) -> None:
    to_text("".join(parts))


@pytest.mark.parametrize("opening", ["{{a|", "[[a|", "<b>", "{|\n|", "{{{", "[http://x "])
def test_endless_nesting_is_refused_or_read(opening: str) -> None:
    (document,) = clean_wikitext()([Document(id="x", text=opening * 20_000 + "text", origin="o")])
    assert document.dropped in (None, "wikitext: nested without end", "wikitext: no text but markup")


def test_llamas_twenty_languages() -> None:
    assert len(LANGUAGES) == 20
