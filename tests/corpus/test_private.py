"""Private data: what is found, what is left, and how it is marked."""

import sysconfig
import time
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
    'api_key = "9f8e7d6c5b4a39281706"': 'api_key = "<SECRET>"',
    "{'Client_Secret': 'Zm9vYmFyMTIzNDU2'}": "{'Client_Secret': '<SECRET>'}",
    "at 8.8.8.8. By 2606:4700::1111, too": "at <IP_ADDRESS>. By <IP_ADDRESS>, too",
    "It is 4111-1111-1111-1111. Or 3782 822463 10005.": "It is <CREDIT_CARD>. Or <CREDIT_CARD>.",
    "AT61 1904 3002 3457 3201 NOW AND NO9386011117947, please": "<IBAN> NOW AND <IBAN>, please",
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nA==\n"
    "-----END RSA PRIVATE KEY-----\n": "<PRIVATE_KEY>\n",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\nA\n-----END PGP PRIVATE KEY BLOCK-----": "<PRIVATE_KEY>",
    "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N": "Bearer <KEY>",
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
    "std::vector<int> and a::b::c::d, ab::cd, 2001:db8::1, 2023:10:12",
    "class=sk-toggleable__content-label",
    "AT61190430023457320X and AT611904300234573201X and XX61 1904 3002 3457 3202",
    "+0 123 456 789, 1.3.6.1.4.1.311",
    'if "-----BEGIN PRIVATE KEY-----" in text:',
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


HOSTILE = ["a", "1", "1 ", "1.", "a@", "a.", "a@a.a.a.", ":", "1:", "2001:", "+1 ", "+1(1)1", "A1 ", "AT12AAAA "]
HOSTILE += ["api_key=", "secret = 'aaaaaaaaaaaaaaaaaaa", "sk-", "-eyJaaaaaaaaaa", ".eyJaaaaaaaaaa"]
HOSTILE += ["-----BEGIN PRIVATE KEY-----"]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_texts_take_linear_time(piece: str) -> None:
    start = time.process_time()
    mark(piece * (1_000_000 // len(piece)))
    assert time.process_time() - start < 10


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
