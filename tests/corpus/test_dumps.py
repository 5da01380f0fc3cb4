"""Dumps in XML: a broken record costs itself alone, a cut is told, and memory is one record's."""

import bz2
import gzip
from pathlib import Path

import pytest

pytest.importorskip("lxml")

from arriero.common.errors import FormatError
from arriero.corpus import dumps
from arriero.corpus.dumps import BROKEN, CUT_OFF, TOO_LONG, Dump, parse_record


def records(path: Path, data: bytes) -> list[tuple[bytes, str | None]]:
    path.write_bytes(data)
    return list(Dump(path, "root", b"<a>", b"</a>").records())


def test_each_record_comes_alone_and_the_head_before_them(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"<root> <head/>\n <a>1</a>\n<a><b/></a> </root>")
    dump = Dump(tmp_path / "x", "root", b"<a>", b"</a>")
    assert list(dump.records()) == [(b"<a>1</a>", None), (b"<a><b/></a>", None)]
    assert dump.head == b"<root> <head/>\n "


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 64])
def test_where_the_file_is_split_in_reading_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(dumps, "_CHUNK", chunk)
    data = b"<root><a>1</a><a>never closed<a>2</a>stray</a>\n<a></a></root>"
    assert records(tmp_path / "x", data) == [
        (b"<a>1</a>", None),
        (b"<a>never closed", BROKEN),
        (b"<a>2</a>", None),
        (b"stray</a>", BROKEN),
        (b"<a></a>", None),
    ]


@pytest.mark.parametrize("end", [b"<a>2", b"<a>2</a>", b"<a>2</a>\n</ro"])
def test_a_file_that_is_cut_off_says_so(tmp_path: Path, end: bytes) -> None:
    found = records(tmp_path / "x", b"<root><a>1</a>" + end)
    assert found[0] == (b"<a>1</a>", None)
    assert found[-1] == (b"", CUT_OFF)
    assert sum(reason == CUT_OFF for _, reason in found) == 1


@pytest.mark.parametrize(("suffix", "compress"), [("bz2", bz2.compress), ("gz", gzip.compress)])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_half_of_a_compressed_file_gives_what_it_holds(tmp_path: Path, suffix: str, compress, share: float) -> None:
    whole = compress(
        b"<root>" + b"".join(b"<a>%60d</a>" % (number * number * 7919) for number in range(60_000)) + b"</root>"
    )
    found = records(tmp_path / f"x.{suffix}", whole[: int(len(whole) * share)])
    assert found[-1] == (b"", CUT_OFF)
    assert all(data == b"<a>%60d</a>" % (number * number * 7919) for number, (data, _) in enumerate(found[:-1]))
    assert len(found) > 60_000 * (share - 0.5)


def test_what_is_too_long_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dumps, "MAX_BYTES", 1000)
    monkeypatch.setattr(dumps, "_CHUNK", 100)
    data = b"<root><a>" + b"x" * 50_000 + b"</a><a>2</a></root>"
    assert records(tmp_path / "x", data) == [(b"", TOO_LONG), (b"<a>2</a>", None)]
    assert records(tmp_path / "x", b"<root><a>" + b"x" * 50_000) == [(b"", TOO_LONG), (b"", CUT_OFF)]


@pytest.mark.parametrize("data", [b"", b"text", b"<html><a>1</a></html>", b"x" * (2 << 20)])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FormatError, match="expected a dump in XML whose outermost element is <root>"):
        records(tmp_path / "x", data)


def test_entities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="declares a document type"):
        records(tmp_path / "x", b'<!DOCTYPE r [<!ENTITY b "bb">]><root><a>&b;</a></root>')


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<a>caf\xe9</a>", "utf-8: invalid"),
        (b"<a>\x00</a>", "nul bytes"),
        (b"<a>&undefined;</a>", BROKEN),
        (b"<a><b></a>", BROKEN),
        (b"<b>" * 100_000, BROKEN),
    ],
)
def test_why_a_record_is_none(data: bytes, reason: str) -> None:
    assert parse_record(data) == (None, reason)
