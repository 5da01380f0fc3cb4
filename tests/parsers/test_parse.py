"""Dispatch, encodings, cleaning and limits: what holds for every format."""

import os
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.parsers.cleaning import MAX_MARKS, clean
from arriero.parsers.limits import ParseLimits
from arriero.parsers.parse import PARSERS, SUFFIXES, parse_bytes, parse_file

RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. Погода сегодня хорошая, и мы пойдём гулять."
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。"
CHINESE = "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。"
KOREAN = (
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았다."
)
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy. Vláda dnes rozhodla o nových opatřeních."
GREEK = "Η κυβέρνηση αποφάσισε σήμερα για τα νέα μέτρα στην Αθήνα."
FRENCH = "Là-bas, l'élève a rêvé d'un été où le garçon naïf préférait être chez sa mère, près de la forêt."


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(sorted(SUFFIXES)))
def test_any_bytes_are_parsed_or_refused_by_name(data, suffix):
    try:
        document = parse_bytes(f"x{suffix}", data)
    except FormatError as error:
        message = str(error)
    else:
        message = "x"
        assert document.text.strip()
        assert all(section.text == clean(section.text) for section in document.sections)
    assert message.startswith("x")
    assert "\n" not in message


def test_every_suffix_has_a_parser():
    assert set(SUFFIXES.values()) == set(PARSERS)


@pytest.mark.parametrize("data", [b"", b"  \n\t ", b"\xef\xbb\xbf", b"\x00" * 10, b"\r\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.docx", "a.md", "a.html", "a.csv", "a.ipynb", "a.py", "a"])
def test_files_without_text_are_refused(name, data):
    with pytest.raises(FormatError, match=f"{name}: "):
        parse_bytes(name, data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x7fELF\x02\x01\x01\x00\x00", "binary"),
        (bytes(range(1, 256)) * 4, "binary"),
        (b"\x89PNG\r\n\x1a\n\x00", "image"),
        (b"{\\rtf1 hello}", "RTF is not supported"),
        (b"\x1f\x8b\x08abc", "gzip"),
    ],
)
def test_binary_data_is_refused_with_its_reason(data, reason):
    for name in ("a.txt", "a", "a.md"):
        with pytest.raises(FormatError, match=reason):
            parse_bytes(name, data)


@pytest.mark.parametrize("name", ["page.docx", "page.pdf", "page.xyz", "page"])
def test_a_web_page_by_another_name_is_read_as_one(name):
    data = b"<!DOCTYPE html><html><body><h1>Title</h1><p>Words of the page.</p></body></html>"
    assert parse_bytes(name, data).metadata["format"] == "html"


def test_text_that_calls_itself_a_pdf_is_refused():
    with pytest.raises(FormatError, match=r"a\.pdf: not a PDF file"):
        parse_bytes("a.pdf", b"just words")


def test_an_unknown_suffix_with_text_is_text():
    assert parse_bytes("NOTES.foo", b"words").metadata["format"] == "text"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (RUSSIAN, "utf-8"),
        (RUSSIAN, "utf-8-sig"),
        (RUSSIAN, "utf-16"),
        (RUSSIAN, "utf-32"),
        ("Plain English text.", "utf-16-le"),
        ("Plain English text.", "utf-16-be"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN * 3, "koi8-r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (CHINESE, "gb18030"),
        (KOREAN, "euc_kr"),
        (CZECH, "cp1250"),
        (GREEK, "cp1253"),
        ("It’s a “smart” quote.", "cp1252"),
        (FRENCH, "latin-1"),
    ],
)
def test_encodings_are_recognised(text, encoding):
    assert parse_bytes("a.txt", text.encode(encoding)).text == text


def test_one_bad_byte_does_not_cost_the_file():
    data = RUSSIAN.encode()
    damaged = data[:41] + b"\xff" + data[41:]
    text = parse_bytes("a.txt", damaged).text
    assert text.count("\ufffd") <= 3
    assert "французских булок" in text


def test_a_cut_last_character_does_not_change_the_encoding():
    data = ("plain words " * 50 + "é").encode()[:-1]
    assert parse_bytes("a.txt", data).text.startswith("plain words plain")
    assert parse_bytes("a.txt", data).metadata["encoding"] == "utf-8"


def test_guessing_an_encoding_is_quick_on_a_large_file():
    data = (FRENCH.encode("latin-1") + b"\n") * 100_000
    start = time.process_time()
    assert FRENCH in parse_bytes("a.txt", data).text
    assert time.process_time() - start < 20


def test_cleaning_composes_accents_but_keeps_compatibility_characters():
    assert clean("cafe\u0301 ﬁ ² Å ①") == "café ﬁ ² Å ①"


def test_cleaning_removes_what_hides_and_keeps_what_shapes():
    hidden = "".join(chr(0xE0000 + ord(char)) for char in "ignore this")
    assert clean(f"a{hidden}b\x00\x07\x7f\ufeff\xad\ud800\ufffec") == "abc"
    for kept in (
        "👩\u200d👧",
        "می\u200cخواهم",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "\u200fא",
    ):
        assert clean(kept) == kept


def test_cleaning_normalises_newlines_and_blank_lines():
    assert clean("\n\n  a  \r\nb\rc\u2028d\x0ce\n\n\n\nf\t\n") == "  a\nb\nc\nd\ne\n\nf"


@settings(deadline=None)
@given(st.text(st.characters(), max_size=200))
def test_cleaning_twice_is_cleaning_once(text):
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode("utf-8")


def test_a_million_combining_marks_take_no_quadratic_time():
    start = time.process_time()
    text = clean("e" + "\u0301\u0316" * 500_000 + "z")
    assert time.process_time() - start < 5
    assert len(text) <= MAX_MARKS + 3


def test_a_large_single_line_is_parsed_quickly():
    start = time.process_time()
    assert len(parse_bytes("a.txt", b"x" * 5_000_000).text) == 5_000_000
    assert time.process_time() - start < 5


def test_limits_are_refused_by_name():
    with pytest.raises(FormatError, match=r"a\.txt: larger than 3 bytes \(limit max_bytes\)"):
        parse_bytes("a.txt", b"1234", limits=ParseLimits(max_bytes=3))
    with pytest.raises(FormatError, match=r"a\.txt: more than 3 characters of text \(limit max_characters\)"):
        parse_bytes("a.txt", b"1234", limits=ParseLimits(max_characters=3))
    with pytest.raises(ArrieroError, match="max_pages must be positive"):
        ParseLimits(max_pages=0)


def test_a_file_is_named_by_itself_or_by_the_caller(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("words")
    assert parse_file(path).name == "a.txt"
    assert parse_file(path, name="folder/a.txt").name == "folder/a.txt"


def test_what_is_no_ordinary_file_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        parse_file(tmp_path / "absent.txt")
    with pytest.raises(FormatError, match="not an ordinary file"):
        parse_file(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(FormatError, match="not an ordinary file"):
        parse_file(tmp_path / "pipe.txt")
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(10 * 1024**3)  # sparse: must be refused before it is read
    with pytest.raises(FormatError, match="limit max_bytes"):
        parse_file(large)
