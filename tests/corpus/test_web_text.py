"""From pages to text: title first, content kept, scripts gone; hostile nesting refused before it is parsed."""

from pathlib import Path

import pytest

pytest.importorskip("resiliparse")

from arriero.corpus.document import Document
from arriero.corpus.warc import read_warc
from arriero.corpus.web_text import Extractor, nodes, web_text

PARAGRAPHS = [f"Paragraph {number} tells something of llamas, of wool and of mountains." for number in range(6)]
PAGE = f"""<!DOCTYPE html><html><head><title>Llamas
 &amp; wool</title><style>p {{ color: red }}</style><script>var secret = 1;</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About us</a></li></ul></nav>
<main><h1>Of llamas</h1>{"".join(f"<p>{text}</p>" for text in PARAGRAPHS)}</main>
<footer><a href="/imprint">Imprint</a></footer></body></html>"""


def page(html: str) -> Document:
    return Document(id="x", text=html, origin="http://x", metadata={"content_type": "text/html"})


@pytest.mark.parametrize("extractor", ["resiliparse", "trafilatura"])
def test_the_title_comes_first_and_only_content_after(extractor: Extractor) -> None:
    pytest.importorskip("trafilatura")
    (document,) = web_text(extractor)([page(PAGE)])
    title = "Llamas & wool" if extractor == "resiliparse" else "Of llamas"  # trafilatura prefers the heading
    assert document.text.split("\n")[0] == document.metadata["title"] == title
    assert all(text in document.text for text in PARAGRAPHS)
    assert not any(word in document.text for word in ("secret", "color", "Imprint", "About us"))


def test_a_real_page_keeps_its_paragraphs(data_folder: Path) -> None:
    (raw,) = read_warc(data_folder / "corpus" / "warc" / "example.warc", "x")
    (document,) = web_text()([raw])
    assert document.text.split("\n") == [
        "Example Domain",
        "This domain is established to be used for illustrative examples in documents. You may use this domain in "
        "examples without prior coordination or asking for permission.",
        "More information...",
    ]


def test_text_passes_as_it_is() -> None:
    document = Document(id="x", text="a < b\n\n\nc", origin="o", metadata={"content_type": "text/plain"})
    assert list(web_text()([document])) == [document]


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 100_000 + "x" + "</div>" * 100_000,
        "".join(f"<font size={number}><p>" for number in range(900)) + "<p>x" * 30_000,
        "<b>" * 200_000,
        "<table><td>" * 50_000,
        "<p>" + "".join(f"<font size={number}></x>" for number in range(900)) + "<p>x" * 30_000,
        "<p " + " ".join(f"a{number}='>'" for number in range(20_000)) + ">x",
        "<select>" + "<oPtion>x" * 20_000,
    ],
    ids=["div", "font", "b", "table", "closings of nothing", "attributes", "options"],
)
def test_hostile_nesting_is_refused_without_parsing(html: str) -> None:
    (document,) = web_text()([page(html)])
    assert document.dropped == "html: nested too deeply"


@pytest.mark.parametrize("html", ["<p>word</p>" * 200_000, "<p>one <b>two</b>" * 100_000, "<li><p>x" * 100_000])
def test_long_flat_pages_are_read(html: str) -> None:
    assert nodes(html) < 2_000_000
    (document,) = web_text()([page(html)])
    assert document.dropped is None


def test_long_values_are_no_attributes() -> None:
    drawing = '<svg><path d="' + "M 1 2 " * 50_000 + '"></svg><img src="data:image/png;base64,' + "a/b/" * 50_000 + '">'
    assert nodes(drawing) == 4 * 2


@pytest.mark.parametrize("extractor", ["resiliparse", "trafilatura"])
def test_entities_that_expand_without_end_are_not_expanded(extractor: Extractor) -> None:
    pytest.importorskip("trafilatura")
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    (document,) = web_text(extractor)([page(f'<!DOCTYPE x [<!ENTITY a0 "ha">{entities}]>{PAGE}<p>&a9;</p>')])
    assert len(document.text) < 2000


@pytest.mark.parametrize("html", ["", "<html></html>", "<script>x</script>", "<!-- nothing -->"])
def test_a_page_without_text_is_dropped(html: str) -> None:
    (document,) = web_text()([page(html)])
    assert document.dropped == "html: no text on the page"


def test_one_line_of_many_megabytes_is_read() -> None:
    (document,) = web_text()([page("<p>" + "x" * 30_000_000)])
    assert len(document.text) == 30_000_000
