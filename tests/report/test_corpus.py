"""A corpus's page: balanced, complete, and what documents say is text."""

from arriero.corpus.document import Document
from arriero.corpus.ledger import Ledger
from arriero.report.corpus import MOST_BARS, amount, percent, reasons, render_corpus
from tests.report.test_page import Page

HOSTILE = "<script>alert('x')</script> & <b>"


def account() -> Ledger:
    ledger = Ledger()
    for number in range(300):
        document = Document(
            id=f"x#{number}",
            text=f"{HOSTILE} text {number}",
            origin=f"https://x/{HOSTILE}",
            licence="MIT",
            metadata={"language": f"l{number % 50}"},
            dropped=f"step: {HOSTILE}" if number % 3 == 0 else None,
        )
        ledger.read.add(len(document.text))
        if document.dropped:
            ledger.drop(document, len(document.text))
        else:
            ledger.keep(document, f"before {HOSTILE}")
    return ledger


def test_the_page_shows_every_source_and_no_script() -> None:
    page = Page(render_corpus("my <corpus>", {"web": account(), "empty": Ledger()}, {"web": 1234}, "tokenizer.json"))
    text = " ".join(page.text)
    assert "script" not in {tag for tag, _ in page.tags}
    told = (f"step: {HOSTILE}", f"before {HOSTILE}", "Nothing was dropped.")
    for shown in ("my <corpus>", "web", "empty", "1,234", *told):
        assert shown in text
    assert not any(value.startswith("http") for _, attributes in page.tags for value in attributes.values() if value)


def test_bars_are_as_long_as_their_shares_and_few() -> None:
    (bar,) = reasons(account())
    assert (bar.documents, bar.share) == (100, 1 / 3)
    html = render_corpus("x", {"web": account()}, {}, None)
    assert "width:33.33%" in html
    assert html.count("<tr>") < MOST_BARS + 12
    assert f"{50 - MOST_BARS} others" in html


def test_amounts_have_fitting_units() -> None:
    assert [amount(value) for value in (0, 999, 1_000, 3.3e12)] == ["0 B", "999 B", "1 kB", "3.3 TB"]
    assert percent(0.12345) == "12.3 %"
