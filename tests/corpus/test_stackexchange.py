"""StackExchange: exact counts of a real dump, answers by their scores as numbers, code kept."""

from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import pytest

pytest.importorskip("lxml")
pytest.importorskip("resiliparse")

from arriero.common.errors import FormatError
from arriero.corpus import stackexchange
from arriero.corpus.document import Document
from arriero.corpus.stackexchange import clean_posts, read_stackexchange


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "coffee.stackexchange.com").mkdir()
    return tmp_path / "coffee.stackexchange.com" / "Posts.xml"


def post(number: int, body: str, parent: int | None = None, score: int | str = 0, title: str = "T") -> str:
    kind = f'PostTypeId="2" ParentId="{parent}"' if parent else f'PostTypeId="1" Title={quoteattr(title)}'
    return f'<row Id="{number}" {kind} Score="{score}" Body={quoteattr(body)} />'


def read(path: Path, *rows: str, end: str = "</posts>") -> list[Document]:
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<posts>{"".join(rows)}{end}', encoding="utf-8")
    return list(clean_posts()(read_stackexchange(path, "x")))


def test_a_real_dump_gives_every_question_with_its_answers(data_folder: Path) -> None:
    path = data_folder / "corpus" / "stackexchange" / "Posts.xml"
    raw = list(read_stackexchange(path, "x"))
    kept = [document for document in raw if not document.dropped]
    assert len(kept) == 225
    assert sum(document.metadata["answers"] for document in kept) == 327
    assert {document.dropped for document in raw} <= {None, "stackexchange: neither question nor answer"}
    assert all(not document.dropped and "<p>" not in document.text for document in clean_posts()(kept))


def test_scores_are_numbers_where_texts_would_order_wrongly(data_folder: Path) -> None:
    """19 of the 82 questions of the real dump with several answers come out otherwise if scores are texts."""
    path = data_folder / "corpus" / "stackexchange" / "Posts.xml"
    answers: dict[str, list[dict[str, str]]] = {}
    for row in ElementTree.parse(path).getroot():
        if row.get("PostTypeId") == "2":
            answers.setdefault(row.attrib["ParentId"], []).append(dict(row.attrib))
    several = {parent: rows for parent, rows in answers.items() if len(rows) > 1}
    by_text = 0
    texts = {document.id: document.text for document in read_stackexchange(path, "x")}
    for parent, rows in several.items():
        right = sorted(rows, key=lambda row: (-int(row["Score"]), int(row["Id"])))
        by_text += right != sorted(rows, key=lambda row: row["Score"], reverse=True)
        places = [texts[f"x#{parent}"].index(row["Body"]) for row in right]
        assert places == sorted(places)
    assert (len(several), by_text) == (82, 19)


def test_equal_scores_stand_by_number_and_answers_may_come_first(site: Path) -> None:
    rows = [post(5, "five", 2, 3), post(3, "three", 2, 9), post(9, "nine", 2, 10), post(4, "four", 2, 3), post(2, "q")]
    (document,) = read(site, *rows)
    assert document.text == "T\n\nq\n\nnine\n\nthree\n\nfour\n\nfive"
    assert (document.origin, document.licence) == ("https://coffee.stackexchange.com/questions/2", "CC-BY-SA-4.0")
    assert document.metadata == {"score": 0, "answers": 4}


def test_html_goes_lists_and_code_stay(site: Path) -> None:
    body = (
        "<p>Some <em>words</em> &amp; a <code>x &lt; y</code>:</p>\n<ul><li>one</li><li>two</li></ul>\n"
        "<pre><code>def f():\n    return 1  # &lt;p&gt;\n\n\nf()</code></pre><p>End.</p>"
    )
    (document,) = read(site, post(1, body, title="A <b> in C++?"))
    lines = document.text.split("\n")
    assert lines[0] == "A <b> in C++?"
    assert "Some words & a x < y:" in lines
    assert [line.strip() for line in lines if line.strip().startswith("•")] == ["• one", "• two"]
    assert "def f():\n    return 1  # <p>\n\n\nf()" in document.text


def test_a_lone_answer_a_wiki_page_and_a_broken_row_are_counted(site: Path) -> None:
    rows = [
        post(1, "q"),
        post(2, "lost", 77),
        '<row Id="3" PostTypeId="4" Body="wiki" />',
        post(4, "x", 1, "many"),
        post(5, "x", 1, 10**30),
        '<row Id="6" PostTypeId="1" Body="',
        post(1, "the same number"),
    ]
    assert sorted(document.dropped or "" for document in read(site, *rows)) == [
        "",
        "stackexchange: a number that another post has",
        "stackexchange: an answer without its question",
        "stackexchange: broken record",
        "stackexchange: broken record",
        "stackexchange: broken record",
        "stackexchange: neither question nor answer",
    ]


def test_a_question_without_answers_stays_and_its_address_needs_the_sites_name(tmp_path: Path) -> None:
    (document,) = read(tmp_path / "Posts.xml", post(1, "q"))
    assert (document.text, document.dropped) == ("T\n\nq", None)
    assert document.origin == f"{tmp_path / 'Posts.xml'}#questions/1"


def test_a_post_with_too_long_answers_is_dropped(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stackexchange, "MAX_BYTES", 1000)
    found = read(site, post(1, "q"), post(2, "é" * 600, 1), post(3, "q"), post(4, "e" * 600, 3))
    assert [document.dropped for document in found] == ["stackexchange: longer than 64 MiB", None]


def test_a_dump_that_is_cut_off_gives_what_it_holds_and_says_so(site: Path) -> None:
    found = read(site, post(1, "q"), post(2, "a", 1), end='<row Id="3" Post')
    assert [document.dropped for document in found] == [
        "stackexchange: the dump is cut off or broken from here on",
        None,
    ]
    assert found[1].text == "T\n\nq\n\na"


def test_entities_do_not_expand(site: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    site.write_text(f'{bomb}<posts><row Id="1" PostTypeId="1" Title="T" Body="&b;"/></posts>')
    with pytest.raises(FormatError, match="declares a document type"):
        list(read_stackexchange(site, "x"))
