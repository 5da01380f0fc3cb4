"""PDF: pages, bookmarks, hyphens; encrypted, scanned, broken and truncated files."""

import io
import threading

import pytest
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen import canvas

from arriero.common.errors import FormatError
from arriero.parsers.limits import ParseLimits
from arriero.parsers.parse import parse_bytes


def make_pdf(pages, *, encrypt=None, outline=(), title=None, image=False):
    """`pages`: lists of lines; `outline`: (page, level, title)."""
    buffer = io.BytesIO()
    page_canvas = canvas.Canvas(buffer, encrypt=encrypt)
    if title:
        page_canvas.setTitle(title)
    for number, lines in enumerate(pages, start=1):
        text = page_canvas.beginText(72, 720)
        for line in lines:
            text.textLine(line)
        page_canvas.drawText(text)
        if image:
            page_canvas.rect(10, 10, 500, 700, fill=1)
        for place, (page, level, heading) in enumerate(outline):
            if page == number:
                page_canvas.bookmarkPage(f"k{place}")
                page_canvas.addOutlineEntry(heading, f"k{place}", level)
        page_canvas.showPage()
    page_canvas.save()
    return buffer.getvalue()


def test_pages_are_counted_from_one_and_kept():
    document = parse_bytes("a.pdf", make_pdf([["First page."], ["Second page."], ["Third page."]], title="A title"))
    assert [(section.page, section.text) for section in document.sections] == [
        (1, "First page."),
        (2, "Second page."),
        (3, "Third page."),
    ]
    assert document.metadata["title"] == "A title"
    assert document.metadata["pages"] == "3"


def test_a_page_without_text_does_not_shift_the_numbers():
    document = parse_bytes("a.pdf", make_pdf([["One."], [], ["Three."]]))
    assert [section.page for section in document.sections] == [1, 3]


def test_bookmarks_become_heading_paths_and_divide_a_page_at_their_line():
    pages = [["Preface words.", "Chapter One", "Text of one.", "Details", "Text of details."], ["Still details."]]
    outline = [(1, 0, "Chapter One"), (1, 1, "Details")]
    document = parse_bytes("a.pdf", make_pdf(pages, outline=outline))
    assert [(section.page, section.title) for section in document.sections] == [
        (1, None),
        (1, "Chapter One"),
        (1, "Chapter One > Details"),
        (2, "Chapter One > Details"),
    ]
    assert document.sections[1].text == "Chapter One\nText of one."


def test_a_word_hyphenated_at_a_line_end_is_mended():
    document = parse_bytes("a.pdf", make_pdf([["This is remark-", "able."]]))
    assert "remarkable" in document.text


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a well-known fact; a well-", "known one"], "a well-known one"),
        (["the state-of-the-", "art"], "state-of-the-art"),
        (["born in the North-", "East"], "North-East"),
        (["from 1990-", "1995"], "1990-1995"),
        (["an ex-", "tension; extension"], "an extension"),
    ],
)
def test_a_hyphen_that_belongs_to_the_word_stays(lines, expected):
    assert expected in parse_bytes("a.pdf", make_pdf([lines])).text


@pytest.mark.parametrize("encryption", ["secret", StandardEncryption("secret", "owner", strength=128)])
def test_an_encrypted_pdf_is_refused_with_its_reason(encryption):
    with pytest.raises(FormatError, match=r"locked\.pdf: encrypted PDF: remove the password"):
        parse_bytes("locked.pdf", make_pdf([["Secret."]], encrypt=encryption))


def test_a_pdf_that_opens_without_a_password_is_read():
    data = make_pdf([["Printing is forbidden, reading is not."]], encrypt=StandardEncryption("", "owner", canPrint=0))
    assert "reading is not" in parse_bytes("a.pdf", data).text


def test_a_pdf_without_text_is_called_scanned():
    with pytest.raises(FormatError, match=r"scan\.pdf: no text on 2 pages: a scanned PDF\?.*OCR"):
        parse_bytes("scan.pdf", make_pdf([[], []], image=True))


def test_a_pdf_without_pages_is_refused():
    body = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
    table = b"xref\n0 3\n0000000000 65535 f \n0000000009 00000 n \n0000000054 00000 n \n"
    data = body + table + b"trailer<</Size 3/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(body)
    with pytest.raises(FormatError, match="encrypted"):  # PDFium remembers this error
        parse_bytes("locked.pdf", make_pdf([["Secret."]], encrypt="secret"))
    with pytest.raises(FormatError, match=r"empty\.pdf: broken PDF, or one without pages"):
        parse_bytes("empty.pdf", data)


def test_a_pdf_truncated_anywhere_is_read_or_refused_by_name(outcome):
    data = make_pdf([[f"Line {line} of page {page}." for line in range(20)] for page in range(5)], title="T")
    outcomes = set()
    for cut in range(0, len(data), max(1, len(data) // 150)):
        outcomes.add(outcome("cut.pdf", data[:cut]))
    assert outcomes == {"parsed", "refused"}


def test_a_pdf_with_damaged_bytes_is_read_or_refused(outcome):
    data = bytearray(make_pdf([["Some words."]] * 3))
    for at in range(0, len(data), 41):
        damaged = bytes(data[:at]) + bytes([data[at] ^ 0xFF]) + bytes(data[at + 1 :])
        assert outcome("bad.pdf", damaged) in ("parsed", "refused")


def test_too_many_pages_are_refused():
    with pytest.raises(FormatError, match=r"3 pages, more than 2 \(limit max_pages\)"):
        parse_bytes("a.pdf", make_pdf([["x"]] * 3), limits=ParseLimits(max_pages=2))


def test_too_much_text_and_too_little_time_are_refused():
    data = make_pdf([["word " * 10]] * 3)
    with pytest.raises(FormatError, match="limit max_characters"):
        parse_bytes("a.pdf", data, limits=ParseLimits(max_characters=60))
    with pytest.raises(FormatError, match="limit max_seconds"):
        parse_bytes("a.pdf", data, limits=ParseLimits(max_seconds=1e-9))


def test_threads_may_parse_at_once():
    data = make_pdf([[f"Page {page}."] for page in range(20)])
    found = []
    threads = [threading.Thread(target=lambda: found.append(parse_bytes("a.pdf", data).text)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
