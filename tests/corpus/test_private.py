"""Private data: what is found, what is left, and how it is marked."""

import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.corpus.document import Document
from arriero.corpus.private import mark, private_data

FOUND = {
    "Write to ana.maria+x@mail.example.org, please": "Write to <EMAIL>, please",
    "Call +49 30 123456-78 or +1 (555) 123-4567 now": "Call <PHONE> or <PHONE> now",
    "Call (555) 123-4567 or 555-123-4567": "Call <PHONE> or <PHONE>",
    "From 8.8.8.8 and 2001:4860:4860::8888": "From <IP_ADDRESS> and <IP_ADDRESS>",
    "Card 4111 1111 1111 1111 or 4111111111111111": "Card <CREDIT_CARD> or <CREDIT_CARD>",
    "IBAN DE89 3704 0044 0532 0130 00 or GB82WEST12345698765432": "IBAN <IBAN> or <IBAN>",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAAA=\n-----END RSA PRIVATE KEY-----": "<PRIVATE_KEY>",
    "key = AKIAIOSFODNN7EXAMPLE": "key = <KEY>",
    f"ghp_{'a1B2' * 9} and xoxb-1234567890-abc": "<KEY> and <KEY>",
    'api_key = "9f8e7d6c5b4a39281706"': "<SECRET>",
    "'client_secret': 'Zm9vYmFyMTIzNDU2'": "'<SECRET>",
}
LEFT = [
    "Version 1.2.3.4 of 2020-01-15, at 12:30:45, pages 100-200",
    "From 192.168.0.1, 10.0.0.1 and 127.0.0.1",
    "ISBN 978-3-16-148410-0 and 1234 5678 9012 3456",
    "0000 0000 0000 0000",
    "password = getpass.getpass()",
    'token = "the_next_token_in_line"',
    "a @ b, @decorator, user@localhost",
    "DE00 1234 5678 9012 3456 78",
    "1 000 000 people and 3.14159265358979",
    "std::vector<int> and a::b::c::d",
]


@pytest.mark.parametrize(("text", "expected"), FOUND.items())
def test_it_is_found_and_marked(text: str, expected: str) -> None:
    assert mark(text)[0] == expected


@pytest.mark.parametrize("text", LEFT)
def test_other_numbers_and_words_are_left(text: str) -> None:
    assert mark(text) == (text, {})


def test_documents_are_counted_by_kind_or_dropped() -> None:
    document = Document(id="x", text="a@b.org, c@d.org, +49 30 1234567", origin="o")
    (marked,) = private_data("replace")([document])
    assert marked.text == "<EMAIL>, <EMAIL>, <PHONE>"
    assert marked.metadata == {"private": {"EMAIL": 2, "PHONE": 1}}
    (dropped,) = private_data("drop")([document])
    assert (dropped.dropped, dropped.text) == ("private: email, phone", "")


@pytest.mark.parametrize("piece", ["a", "1", "1 ", "1.", "a@", "a.", ":", "1:", "+1 ", "api_key=", "A1 "])
def test_hostile_texts_take_linear_time(piece: str) -> None:
    mark(piece * (1_000_000 // len(piece)))


@given(st.text(alphabet="a1@.:-+ \n\"'=_", max_size=200))
def test_marking_twice_changes_nothing_more(text: str) -> None:
    once, _ = mark(text)
    assert mark(once)[0] == once


def test_the_standard_library_is_hardly_touched() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    counts: dict[str, int] = {}
    size = 0
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        size += len(text)
        for kind, count in mark(text)[1].items():
            counts[kind] = counts.get(kind, 0) + count
    assert size > 4_000_000
    assert counts.pop("EMAIL") < 120
    assert sum(counts.values()) < 20
