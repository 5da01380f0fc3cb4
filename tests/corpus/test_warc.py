"""WARC and WET: real files with exact counts, and every kind of damage, after which the next record is still read."""

import gzip
import random
from pathlib import Path

import pytest

pytest.importorskip("fastwarc")

from arriero.corpus.document import Document
from arriero.corpus.warc import BROKEN, CUT, DAMAGED, WRONG_LENGTH, read_warc


def response(
    number: int, body: bytes, *, length: int | None = None, kind: str = "text/html", status: int = 200
) -> bytes:
    http = f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\n\r\n".encode() + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://x/{number}\r\n"
        "Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http) if length is None else length}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


GOOD = [response(number, f"page{number}".encode()) for number in range(4)]
MEMBERS = [gzip.compress(record, mtime=0) for record in GOOD]


def pages(path: Path, data: bytes) -> list[Document]:
    path.write_bytes(data)
    return list(read_warc(path, "x"))


def told(path: Path, data: bytes) -> list[str]:
    return [document.dropped or document.text for document in pages(path, data)]


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "example.warc": [1270],
        "example.warc.gz": [1270],
        "example-bad-non-chunked.warc.gz": [1270],
        "example-iana.org-chunked.warc": [7221],
        "example-wget-bad-target-uri.warc.gz": [1270],
        "example-trunc.warc": ["warc: broken HTTP response", BROKEN],
        "post-test.warc.gz": ["warc: no page (content type)"] * 3,
    }.items(),
)
def test_real_files_give_exactly_these(data_folder: Path, name: str, expected: list[int | str]) -> None:
    found = list(read_warc(data_folder / "corpus" / "warc" / name, name))
    assert [document.dropped or len(document.text) for document in found] == expected
    assert len({document.id for document in found}) == len(found)


def test_angle_brackets_around_an_address_are_no_part_of_it(data_folder: Path) -> None:
    name = "example-wget-bad-target-uri.warc.gz"
    (page,) = read_warc(data_folder / "corpus" / "warc" / name, name)
    assert page.origin == "http://example.com/"
    assert page.metadata == {"date": "2018-02-09T15:12:11Z", "content_type": "text/html"}


@pytest.mark.parametrize(
    ("damaged", "expected"),
    {
        "too long": (response(1, b"page1", length=100), [WRONG_LENGTH]),
        "beyond the file": (response(1, b"page1", length=10**12), [CUT]),
        "too short": (response(1, b"page1", length=47), ["pag", BROKEN]),
        "negative": (response(1, b"page1", length=-5), ["warc: the server refused (status)", BROKEN]),
        "no headers": (b"WARC/1.0\r\nnonsense\r\n\r\n", [BROKEN]),
        "garbage": (b"\x00\xff garbage\r\nmore\r\n", [BROKEN]),
        "another version": (GOOD[1].replace(b"WARC/1.0", b"XXXX/1.0"), [BROKEN]),
    }.values(),
    ids=["too long", "beyond the file", "too short", "negative", "no headers", "garbage", "another version"],
)
def test_one_bad_record_ends_no_file(tmp_path: Path, damaged: bytes, expected: list[str]) -> None:
    data = GOOD[0] + damaged + GOOD[2] + GOOD[3]
    assert told(tmp_path / "x.warc", data) == ["page0", *expected, "page2", "page3"]


def test_a_bad_member_ends_no_compressed_file(tmp_path: Path) -> None:
    bad = bytearray(MEMBERS[1])
    bad[20:40] = bytes(20)
    found = told(tmp_path / "x.warc.gz", MEMBERS[0] + bytes(bad) + MEMBERS[2] + MEMBERS[3])
    assert [text for text in found if text != BROKEN] == ["page0", "page2", "page3"]
    assert BROKEN in found


def test_half_a_gzip_gives_what_it_holds_and_says_that_it_is_cut(tmp_path: Path) -> None:
    assert told(tmp_path / "x.warc.gz", MEMBERS[0] + MEMBERS[1][:-30]) == ["page0", CUT]


def test_long_pages_are_read_from_members_of_their_own(tmp_path: Path) -> None:
    bodies = ["long page " * length for length in (20_000, 5, 200_000)]
    members = [gzip.compress(response(number, body.encode())) for number, body in enumerate(bodies)]
    assert told(tmp_path / "x.warc.gz", b"".join(members)) == bodies


def test_one_member_for_all_records_is_read_too(tmp_path: Path) -> None:
    assert told(tmp_path / "x.warc.gz", gzip.compress(b"".join(GOOD))) == ["page0", "page1", "page2", "page3"]


@pytest.mark.parametrize(
    ("bad", "reason"), [(response(1, b"page1", length=100), WRONG_LENGTH), (b"\x00\xff garbage\r\n", BROKEN)]
)
def test_one_bad_record_ends_no_file_that_is_compressed_whole(tmp_path: Path, bad: bytes, reason: str) -> None:
    data = gzip.compress(GOOD[0] + bad + GOOD[2] + GOOD[3])
    assert told(tmp_path / "x.warc.gz", data) == ["page0", reason, "page2", "page3"]


@pytest.mark.parametrize("packed", ["not", "by record", "whole"])
def test_many_bad_records_cost_no_good_one(tmp_path: Path, packed: str) -> None:
    lengths = {number: (100, 10**9, 20_000)[number // 10 % 3] for number in range(5, 300, 10)}
    bodies = [f"{number} ".encode() * 1000 for number in range(300)]
    records = [response(number, body, length=lengths.get(number)) for number, body in enumerate(bodies)]
    data = b"".join(gzip.compress(record) if packed == "by record" else record for record in records)
    found = set(told(tmp_path / "x.warc.gz", gzip.compress(data) if packed == "whole" else data))
    assert {body.decode() for number, body in enumerate(bodies) if number not in lengths} <= found
    assert found.isdisjoint(bodies[number].decode() for number in lengths)


@pytest.mark.parametrize("flip", [False, True])
def test_a_file_compressed_whole_is_read_up_to_its_damage(tmp_path: Path, flip: bool) -> None:
    noise = random.Random(0)
    bodies = [noise.randbytes(3000).hex() for _ in range(50)]
    data = bytearray(gzip.compress(b"".join(response(n, body.encode()) for n, body in enumerate(bodies))))
    if flip:
        data[len(data) // 2] ^= 255
    else:
        del data[len(data) // 2 :]
    found = told(tmp_path / "x.warc.gz", bytes(data))
    assert found[:20] == bodies[:20]
    assert found[-1] == DAMAGED


def test_a_page_that_quotes_a_record_forges_none(tmp_path: Path) -> None:
    quote = "quoted:\n\n" + GOOD[1].decode() + "so it goes"
    for records in ([GOOD[0], response(5, quote.encode()), GOOD[2]], [GOOD[0], response(5, quote.encode())]):
        assert told(tmp_path / "x.warc", b"".join(records)) == ["page0", quote, "page2"][: len(records)]
        packed = b"".join(map(gzip.compress, records))
        assert told(tmp_path / "x.warc.gz", packed) == ["page0", quote, "page2"][: len(records)]


def test_a_record_that_holds_no_page_hides_none_behind_a_wrong_length(tmp_path: Path) -> None:
    request = response(1, b"x", length=10**9).replace(b"WARC-Type: response", b"WARC-Type: request")
    assert told(tmp_path / "x.warc", GOOD[0] + request + GOOD[2]) == ["page0", CUT, "page2"]
    assert told(tmp_path / "x.warc.gz", MEMBERS[0] + gzip.compress(request)[:-20]) == ["page0", CUT]


def test_every_cut_is_told_or_harmless(tmp_path: Path) -> None:
    whole = b"".join(GOOD[:2])
    refused = ["warc: the server refused (status)", "warc: no page (content type)"]
    for length in range(1, len(whole)):
        found = told(tmp_path / "x.warc", whole[:length])
        assert found[0] in ("page0", CUT, BROKEN, *refused), length


def test_an_empty_file_has_no_documents(tmp_path: Path) -> None:
    assert pages(tmp_path / "x.warc", b"") == []


def test_a_wet_file_gives_texts(tmp_path: Path) -> None:
    body = "Title\nWörter.".encode()
    head = f"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    (page,) = pages(tmp_path / "x.wet", head.encode() + body + b"\r\n\r\n")
    assert page.text == "Title\nWörter."


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (response(1, b"gone", status=404), "warc: the server refused (status)"),
        (response(1, b"\x89PNG", kind="image/png"), "warc: no page (content type)"),
        (response(1, b"a\x00b"), "nul bytes"),
        (response(1, b"  \n"), "empty"),
        (response(1, b"caf\xe9", kind="text/html; charset=utf-8"), "encoding: not as declared"),
        (response(1, b"caf\xe9", kind="text/html; charset=iso-8859-1"), "café"),
        (response(1, b'<meta charset="koi8-r">\xc1'), '<meta charset="koi8-r">а'),
        (response(1, b"x", kind="text/html; charset=no-such-thing"), "x"),
        (response(1, "ünï".encode()), "ünï"),
    ],
)
def test_what_is_no_page_or_no_text_is_dropped_with_a_reason(tmp_path: Path, record: bytes, expected: str) -> None:
    assert told(tmp_path / "x.warc", record) == [expected]
