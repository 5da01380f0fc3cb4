"""DOCX, PPTX, XLSX: structure, and archives that would harm."""

import datetime
import io
import zipfile

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import parse_xml
from pptx.util import Inches

from arriero.common.errors import FormatError
from arriero.parsers.limits import ParseLimits
from arriero.parsers.parse import parse_bytes

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def saved(thing):
    buffer = io.BytesIO()
    thing.save(buffer)
    return buffer.getvalue()


def simple_docx(text="Hello there."):
    document = docx.Document()
    document.add_paragraph(text)
    return saved(document)


def repacked(data, changes, compression=zipfile.ZIP_DEFLATED):
    """The archive with members replaced or added."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", compression) as target:
        for name in source.namelist():
            if name not in changes:
                target.writestr(name, source.read(name))
        for name, content in changes.items():
            target.writestr(name, content)
    return out.getvalue()


def test_docx_headings_lists_and_tables():
    document = docx.Document()
    document.core_properties.title = "Handbook"
    document.core_properties.author = "Ann"
    document.add_heading("Handbook", 0)
    document.add_heading("Tea", 1)
    document.add_paragraph("Boil water.")
    document.add_paragraph("green", style="List Bullet")
    document.add_heading("Prices", 2)
    table = document.add_table(2, 2)
    for at, word in enumerate(["kind", "price", "green", "3"]):
        table.cell(at // 2, at % 2).text = word
    document.add_heading("Coffee", 1)
    document.add_paragraph("Grind beans.")
    parsed = parse_bytes("a.docx", saved(document))
    assert [(section.title, section.text) for section in parsed.sections] == [
        ("Handbook", "Handbook"),
        ("Handbook > Tea", "Tea\n\nBoil water.\n- green"),
        ("Handbook > Tea > Prices", "Prices\n\nkind | price\ngreen | 3"),
        ("Handbook > Coffee", "Coffee\n\nGrind beans."),
    ]
    assert parsed.metadata["title"] == "Handbook"
    assert parsed.metadata["author"] == "Ann"


def test_docx_merged_cells_come_once_and_nested_tables_come():
    document = docx.Document()
    table = document.add_table(1, 3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    inner = table.cell(0, 2).add_table(1, 1)
    inner.cell(0, 0).text = "inner"
    assert parse_bytes("a.docx", saved(document)).text == "wide | inner"


def test_docx_tracked_changes_content_controls_and_text_boxes():
    document = docx.Document()
    document.add_paragraph("start")
    body = document.element.body
    for xml in (
        f'<w:p {W}><w:r><w:t xml:space="preserve">We </w:t></w:r>'
        '<w:ins w:id="1" w:author="a"><w:r><w:t>do</w:t></w:r></w:ins>'
        '<w:del w:id="2" w:author="a"><w:r><w:delText>do not</w:delText></w:r></w:del></w:p>',
        f"<w:sdt {W}><w:sdtContent><w:p><w:r><w:t>from a form</w:t></w:r></w:p></w:sdtContent></w:sdt>",
        f"<w:p {W}><w:r><w:txbxContent><w:p><w:r><w:t>boxed</w:t></w:r></w:p></w:txbxContent></w:r></w:p>",
    ):
        body.insert(len(body) - 1, parse_xml(xml))
    text = parse_bytes("a.docx", saved(document)).text
    assert "We do\n" in text
    assert "do not" not in text
    assert "from a form" in text
    assert text.count("boxed") == 1


def test_pptx_slides_are_pages_with_titles_tables_groups_and_notes():
    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[1])
    slide.shapes.title.text = "Plan"
    slide.placeholders[1].text = "First point"
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    second = presentation.slides.add_slide(presentation.slide_layouts[6])
    table = second.shapes.add_table(1, 2, 0, 0, Inches(2), Inches(1)).table
    table.cell(0, 0).text, table.cell(0, 1).text = "a", "b"
    group = second.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, Inches(1), Inches(1)).text_frame.text = "grouped"
    parsed = parse_bytes("a.pptx", saved(presentation))
    assert [(section.page, section.title, section.text) for section in parsed.sections] == [
        (1, "Plan", "Plan\nFirst point"),
        (1, "Plan > Notes", "Say it slowly."),
        (2, None, "a | b\ngrouped"),
    ]


def test_xlsx_rows_read_under_their_headings_and_formulas_do_not_show():
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.title = "Prices"
    sheet.append(["Name", "Price", "Since", "Fresh"])
    sheet.append(["tea", 3.0, datetime.datetime(2020, 1, 2), True])
    sheet.append(["coffee", 0.1 + 0.2, None, "=1+1"])
    other = workbook.create_sheet("Numbers")
    other.append([1, 2])
    parsed = parse_bytes("a.xlsx", saved(workbook))
    assert [section.title for section in parsed.sections] == ["Prices", "Numbers"]
    assert parsed.sections[0].text.split("\n")[2:] == [
        "Name | Price | Since | Fresh",
        "Name: tea | Price: 3 | Since: 2020-01-02 | Fresh: TRUE",
        "Name: coffee | Price: 0.3",
    ]
    assert parsed.sections[1].text.endswith("1 | 2")


def test_xlsx_with_one_far_cell_is_bounded_by_cells_and_time():
    workbook = openpyxl.Workbook()
    workbook.active["XFD1048576"] = "far"
    data = saved(workbook)
    with pytest.raises(FormatError, match=r"limit max_(cells|seconds)"):
        parse_bytes("a.xlsx", data, limits=ParseLimits(max_cells=100_000, max_seconds=30))


@pytest.mark.parametrize("name", ["a.docx", "a.txt", "a", "a.xlsx"])
def test_the_content_tells_the_kind_of_an_office_file(name):
    assert parse_bytes(name, simple_docx()).metadata["format"] == "docx"


def test_a_zip_bomb_is_refused_by_its_directory():
    data = repacked(simple_docx(), {"word/media/image1.bin": b"\0" * (64 * 1024**2)})
    with pytest.raises(FormatError, match=r"bomb\.docx: zip bomb\? unpacks to [\d,]+ times its size.*max_ratio"):
        parse_bytes("bomb.docx", data)
    with pytest.raises(FormatError, match=r"zip bomb\? unpacks to [\d,]+ bytes.*max_unpacked"):
        parse_bytes("bomb.docx", data, limits=ParseLimits(max_unpacked=1024**2))
    with pytest.raises(FormatError, match="limit max_members"):
        parse_bytes("bomb.docx", data, limits=ParseLimits(max_members=3))


def test_entity_expansion_is_refused():
    bomb = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>'
    for encoded in (bomb, b"<!-- " + b"x" * 9000 + b" -->" + bomb[21:], bomb.decode().encode("utf-16")):
        data = repacked(simple_docx(), {"word/document.xml": encoded})
        with pytest.raises(FormatError, match=r"a\.docx: document type declaration in word/document\.xml"):
            parse_bytes("a.docx", data)


def test_encrypted_and_old_office_files_are_named():
    with pytest.raises(FormatError, match=r"x\.docx: an encrypted Office file or an old binary one"):
        parse_bytes("x.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 512)


def test_other_archives_are_named():
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(FormatError, match="no Office file: unpack it"):
        parse_bytes("x.zip", plain.getvalue())
    book = io.BytesIO()
    with zipfile.ZipFile(book, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
    with pytest.raises(FormatError, match="an EPUB book is not supported"):
        parse_bytes("x.epub", book.getvalue())


def test_deeply_nested_tables_are_refused():
    depth = 60
    inner = "<w:p><w:r><w:t>deep</w:t></w:r></w:p>"
    for _ in range(depth):
        inner = f"<w:tbl><w:tr><w:tc>{inner}</w:tc></w:tr></w:tbl>"
    xml = f"<w:document {W}><w:body>{inner}</w:body></w:document>".encode()
    data = repacked(simple_docx(), {"word/document.xml": xml})
    assert "deep" in parse_bytes("a.docx", data).text
    with pytest.raises(FormatError, match="limit max_depth"):
        parse_bytes("a.docx", data, limits=ParseLimits(max_depth=20))


def test_truncated_and_damaged_archives_are_read_or_refused_by_name(outcome):
    presentation = pptx.Presentation()
    presentation.slides.add_slide(presentation.slide_layouts[0]).shapes.title.text = "T"
    workbook = openpyxl.Workbook()
    workbook.active.append(["x", 1])
    for data in (simple_docx(), saved(presentation), saved(workbook)):
        for at in range(1, len(data), len(data) // 25):
            for broken in (data[:at], data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]):
                assert outcome("bad.docx", broken) in ("parsed", "refused")


def test_a_missing_part_is_a_broken_file():
    data = repacked(simple_docx(), {"word/document.xml": b"<w:document/>"})
    with pytest.raises(FormatError, match=r"a\.docx: "):
        parse_bytes("a.docx", data)


def test_an_empty_document_says_so():
    with pytest.raises(FormatError, match=r"a\.docx: no text"):
        parse_bytes("a.docx", saved(docx.Document()))
    with pytest.raises(FormatError, match=r"a\.xlsx: no text"):
        parse_bytes("a.xlsx", saved(openpyxl.Workbook()))
