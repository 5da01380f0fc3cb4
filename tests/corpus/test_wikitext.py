"""Wikitext: what becomes of each kind of markup, and that none of it can hurt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.corpus.document import Document
from arriero.corpus.wikitext import clean_wikitext, to_text

NESTED = "wikitext: nested without end"
LONG = 1_000_000


def clean(wikitext: str) -> Document:
    (document,) = clean_wikitext()([Document(id="x", text=wikitext, origin="o")])
    return document


@pytest.mark.parametrize(
    ("wikitext", "text"),
    {
        "A [[llama]] and [[Alpaca|some alpacas]] of [[Peru#History|Peru]].": "A llama and some alpacas of Peru.",
        "Two [[llama]]s in [[Peru#History]]": "Two llamas in Peru",
        "'''Bold''' and ''italic'' words of l''''amour'''": "Bold and italic words of l'amour",
        "Seen<ref name=x>a book</ref> here<ref name=x/>.": "Seen here.",
        "A <!-- hidden --> word": "A word",
        "a\n<!-- hidden -->\nb": "a\nb",
        "a <!-- for ever": "a",
        "See [https://x.org the site] or https://y.org now": "See the site or https://y.org now",
        "See [https://x.org] and [1] or [[https://x.org that]]": "See and [1] or that",
        "[[File:a.jpg|thumb|A [[llama]] [http://x y]]]Text[[Category:Animals]]": "Text",
        "[[Bild:a.jpg]][[Fichier : a.jpg|x]]Text[[Категория:Ламы]]": "Text",
        "[[Attēls:A.JPG|thumb|Lama]]Text [[A.jpg]]": "Text A.jpg",
        "Text [[fr:Lama]][[de:Lama]][[zh-min-nan:Lama]]": "Text",
        "In [[:Category:Animals]] and [[wp:Rule|a rule]]": "In Category:Animals and a rule",
        "{| class=x\n! a\n|-\n| b\n|}\nText": "Text",
        "{|\n| {| \n| inner\n|}\n| {{a|b}} [[c]]\n|}\nText": "Text",
        "<table><tr><td>a<table></table></td></tr></table>Text": "Text",
        "a\n{| class=x\n! b\n| c\nd": "a\n\nd",
        "{{Infobox|name=x|a=[[b]]}}Text{{cite web|url=x}}": "Text",
        "{{Infobox\n| a = {{b}}\nText": "Text",
        "a }} b ]] c": "a b c",
        "a {{b [[c]] d": "a b c d",
        "{{{1|default}}} and {{{1}}}": "default and",
        "* one\n* two\n# three\n## four\n:five\n;six\n***": "- one\n- two\n- three\n  - four\nfive\nsix",
        "Fish &amp; chips&nbsp;here &lt;now&gt; &#233;&unknown;": "Fish & chips here <now> é&unknown;",
        "A __NOTOC__ word, __БЕЗ_ОГЛ__ and __init__": "A word, and __init__",
        "a<br/>b<p>c</p>d": "a\nb\nc\nd",
        "10<sup>6</sup> km<sup>2</sup> of H<sub>2</sub>O, 2<sup>nd</sup>": "10⁶ km² of H₂O, 2nd",
        "x\n== Head ==\ny\n== References ==\n* z\n=== Sub ===\nw\n== After ==\nv": "x\n\nHead\n\ny\n\nAfter\n\nv",
        "x\n== Einzelnachweise ==\n<references />": "x",
        "x\n==Ссылки==\ny": "x",
        "<nowiki>[[not a link]]</nowiki>": "[[not a link]]",
        "<source lang=c>\nif (a[[b]]) {\n  '''x''' &amp; y\n}\n</source>": "if (a[[b]]) {\n  '''x''' & y\n}",
        "So <math>\\frac{{a}}{b}</math> is": "So \\frac{{a}}{b} is",
        "std::vector<int> and <iostream>": "std::vector<int> and <iostream>",
        "-{Windows}- је -{sr-ec:текст; sr-el:tekst}--{R|x}--{H|sr-ec:а}-": "Windows је текстx",
        "Lima ({{IPA|x}}; {{audio|y}}) is a city ({{IPA|z}}, Spanish)": "Lima is a city (Spanish)",
        "!Kung people": "!Kung people",
    }.items(),
)
def test_each_markup_becomes_text(wikitext: str, text: str) -> None:
    assert to_text(wikitext) == text


def test_the_title_stands_first() -> None:
    (document,) = clean_wikitext()([Document(id="x", text="''Text''", origin="o", metadata={"title": "T"})])
    assert document.text == "T\n\nText"


@pytest.mark.parametrize("wikitext", ["{{Infobox|a=b}}", "[[File:x]]", "== References ==\nx", "----"])
def test_an_article_without_text_is_counted(wikitext: str) -> None:
    assert clean(wikitext).dropped == "wikitext: no text but markup"


MARKS = "{{ }} {{{ }}} [[ ]] [ ] | a = <ref> </ref> < > == {| |} '' lang| nowrap| convert| 5| <!-- --> 2</sup> -{ }- *"
PARTS = [*MARKS.split(), "<sup>", "[http://x ", "\n", " ", "( )"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=60))
def test_no_markup_is_an_error_nor_survives(parts: list[str]) -> None:
    text = to_text("".join(parts))
    assert "[[" not in text
    assert "{{" not in text


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_no_text_is_an_error(text: str) -> None:
    assert clean(text).dropped in (None, "wikitext: no text but markup")


@pytest.mark.parametrize(
    ("opening", "closing", "dropped"),
    [
        ("{{a|", "", NESTED),
        ("{{nowrap|", "}}", NESTED),
        ("[[a|", "]]", NESTED),
        ("\n{|\n|", "\n|}", NESTED),
        ("<table>", "</table>", NESTED),
        ("{", "}", None),
        ("{{{", "}}}", None),
        ("[http://x ", "]", None),
        ("<b>", "</b>", None),
        ("<ref>", "", None),
        ("<ref name='", "", None),
        ("<pre>", "", None),
        ("<sup>", "", None),
        ("<!--", "", None),
        ("=", "=", None),
        ("==a==\n", "", None),
        ("*", "", None),
        ("'", "", None),
        ("(,", ")", None),
        ("__A", "_", None),
        ("-{a", "}-", None),
        ("&amp", "", None),
        ("\n", "", None),
        ("|", "", None),
    ],
)
def test_a_million_characters_of_nesting_are_read_in_linear_time_or_refused(
    opening: str, closing: str, dropped: str | None
) -> None:
    count = LONG // len(opening)
    document = clean(f"{opening * count} text {closing * count} text")
    assert document.dropped in ((dropped,) if dropped else (None, "wikitext: no text but markup"))
