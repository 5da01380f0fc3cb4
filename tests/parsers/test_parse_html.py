"""HTML: headings as sections, content without menus, hostile nesting, no network."""

import socket
import time

import pytest

from arriero.common.errors import FormatError
from arriero.parsers.parse import parse_bytes

ARTICLE = "This paragraph holds enough words about llamas and their drivers to be taken for the content of a page. "


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a parser opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def parse(html):
    return parse_bytes("page.html", html if isinstance(html, bytes) else html.encode())


def page(body, head=""):
    return f"<!DOCTYPE html><html lang='en'><head><title>The title</title>{head}</head><body>{body}</body></html>"


def test_headings_become_heading_paths():
    html = page("<h1>A</h1><p>one</p><h2>B</h2><p>two</p><h3>C</h3><p>three</p><h2>D</h2><p>four</p>")
    assert [(section.title, section.text) for section in parse(html).sections] == [
        ("A", "A\n\none"),
        ("A > B", "B\n\ntwo"),
        ("A > B > C", "C\n\nthree"),
        ("A > D", "D\n\nfour"),
    ]


def test_lists_tables_and_code_keep_their_form():
    html = page(
        "<p>intro</p><ul><li>x<ul><li>y</li></ul></li><li><p>z</p></li></ul>"
        "<table><tr><th>k</th><th>v</th></tr><tr><td>a</td><td><p>1</p></td></tr></table>"
        "<pre>def f():\n    return 1</pre><p>a <code>b</code><br>c</p>"
    )
    assert parse(html).text == "intro\n\n- x\n- y\n- z\nk | v\na | 1\n\ndef f():\n    return 1\n\na b\nc"


def test_a_long_page_loses_its_menus_and_scripts():
    html = page(
        "<nav><a href='/'>Home sweet home</a></nav><script>evil()</script><style>p{}</style>"
        + "<article><h1>Llamas</h1>"
        + f"<p>{ARTICLE * 5}</p>" * 8
        + "</article><footer>All rights reserved by nobody</footer>"
    )
    document = parse(html)
    assert "enough words about llamas" in document.text
    for noise in ("Home sweet home", "evil", "rights reserved"):
        assert noise not in document.text
    assert document.sections[0].title == "Llamas"


def test_a_manual_is_not_cut_to_its_article():
    """Much text beside the main paragraph stays, where trafilatura alone would drop it."""
    entries = "".join(
        f"<div><b>option-{n}</b><div>sets the value number {n} of the program</div></div>" for n in range(200)
    )
    document = parse(page(f"<h1>Manual</h1><p>{ARTICLE * 3}</p>{entries}"))
    assert all(f"option-{n}" in document.text for n in (0, 77, 199))


def test_images_links_and_frames_are_never_fetched():
    html = page(
        "<img src='http://192.0.2.1/x.png'><iframe src='http://192.0.2.1/'></iframe><p>words <a href='http://192.0.2.1'>l</a></p>",
        head="<link rel='stylesheet' href='http://192.0.2.1/a.css'><base href='http://192.0.2.1/'>",
    )
    assert parse(html).text == "words l"


@pytest.mark.parametrize(
    "declaration", ["<meta charset='windows-1251'>", "<meta http-equiv=c content='text/html; charset=windows-1251'>"]
)
def test_the_declared_encoding_is_used(declaration):
    html = page("<p>Привет, мир</p>", head=declaration).encode("cp1251")
    assert parse(html).text == "Привет, мир"


def test_a_made_up_encoding_is_ignored():
    assert parse(page("<p>Привет, мир</p>", head="<meta charset='klingon'>")).text == "Привет, мир"


def test_an_xml_declaration_does_no_harm():
    assert parse('<?xml version="1.0" encoding="UTF-8"?>' + page("<p>Grüße</p>")).text == "Grüße"


@pytest.mark.parametrize("tag", ["div", "span", "b", "table><tr><td", "ul><li", "blockquote"])
def test_a_hundred_thousand_nested_elements_are_refused(tag):
    with pytest.raises(FormatError, match=r"page\.html: nested deeper than 256 levels"):
        parse(f"<html><body>{f'<{tag}>' * 100_000}deep")


def test_nesting_that_is_only_large_is_read():
    assert "deep" in parse(f"<html><body>{'<div>' * 150}deep").text


@pytest.mark.parametrize(
    "html",
    [
        "<p>" * 50_000 + "x",
        "<" * 100_000,
        "<!--" * 50_000,
        "&amp" * 100_000,
        "<a href='" * 30_000,
        "<p x=" + "'" * 99_999,
    ],
)
def test_malformed_pages_end_in_time(html):
    try:
        assert parse(f"<html><body>{html}").text
    except FormatError as error:
        message = str(error)
    else:
        message = "page.html: "
    assert message.startswith("page.html: ")


@pytest.mark.parametrize("unit", ["<table><tr><td>w</td></tr></table>", "<p>word</p>", "<li>w", "<h2>w</h2>"])
def test_time_is_linear_in_the_number_of_elements(unit):
    spent = []
    for count in (2_000, 16_000):
        start = time.process_time()
        parse(page(unit * count))
        spent.append(time.process_time() - start)
    assert spent[1] < 0.5 + 24 * spent[0]  # 8 times the elements; quadratic would be 64


def test_text_from_right_to_left_stays_in_logical_order():
    assert parse(page("<p dir=rtl>שלום עולם 123</p>")).text == "שלום עולם 123"


def test_a_page_without_text_is_refused():
    with pytest.raises(FormatError, match=r"page\.html: no text"):
        parse(page("<script>x()</script><img src=a.png>"))


def test_real_pages_out_of_a_web_archive(data_folder):
    raw = (data_folder / "corpus/warc/example-iana.org-chunked.warc").read_bytes()
    start = raw.lower().index(b"<!doctype html")
    html = raw[start : raw.lower().index(b"</html>", start) + 7]
    document = parse(html)
    assert "global coordination of the DNS Root" in document.text.replace("\n", " ")
    assert any("Domain Names" in (section.title or "") for section in document.sections)
