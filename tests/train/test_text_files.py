"""Documents out of files of every kind, from any position; damage is told with file and line."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.train import text_files
from arriero.train.text_files import TextOptions, decode, find_files, read_blocks, read_texts

TEXTS = ["first", "two\nlines", "日本語 😀", "", "  spaced  ", "a\u2028b\r\nc", "x" * 3000]


def write_jsonl(file: Path, texts: list[str], field: str = "text") -> None:
    content = "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)).encode()
    file.write_bytes(compress(content, file.suffix))


def compress(content: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        return pytest.importorskip("zstandard").ZstdCompressor().compress(content)
    packers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    return packers[suffix](content) if suffix in packers else content


def write_parquet(file: Path, texts: list[str | None], field: str = "text", group: int = 3) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"id": list(range(len(texts))), field: pyarrow.array(texts, pyarrow.string())})
    parquet.write_table(table, file, row_group_size=group)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2", ".xz"])
def test_jsonl_is_read_whatever_compresses_it(tmp_path: Path, suffix: str) -> None:
    write_jsonl(tmp_path / f"a.jsonl{suffix}", TEXTS)
    assert list(read_texts([tmp_path / f"a.jsonl{suffix}"])) == TEXTS


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_several_frames_in_one_file_are_read_as_one(tmp_path: Path, suffix: str) -> None:
    parts = [json.dumps({"text": f"{i} " * 50_000}).encode() + b"\n" for i in range(3)]
    (tmp_path / f"a.jsonl{suffix}").write_bytes(b"".join(compress(part, suffix) for part in parts))
    assert [text[:2] for text in read_texts([tmp_path])] == ["0 ", "1 ", "2 "]


def test_parquet_is_read_by_column(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", TEXTS, field="body")
    assert list(read_texts([tmp_path], TextOptions(field="body"))) == TEXTS


def test_a_text_file_is_one_document_or_is_split(tmp_path: Path) -> None:
    text = "\ufeffone\ntwo\n\n \nthree\n<|end|>\nfour\n\n\n"
    (tmp_path / "a.txt").write_text(text, newline="")
    assert list(read_texts([tmp_path])) == [text.removeprefix("\ufeff")]
    assert list(read_texts([tmp_path], TextOptions(split="paragraphs"))) == ["one\ntwo", "three\n<|end|>\nfour"]
    assert list(read_texts([tmp_path], TextOptions(split="lines"))) == ["one", "two", "three", "<|end|>", "four"]
    assert list(read_texts([tmp_path], TextOptions(separator="<|end|>"))) == ["one\ntwo\n\n \nthree", "four"]


def test_split_and_separator_exclude_each_other() -> None:
    with pytest.raises(ArrieroError, match="no --split beside it"):
        TextOptions(split="lines", separator="x")


def test_files_come_once_each_in_fixed_order_and_hidden_ones_not_at_all(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/10.txt", "a.txt", ".hidden.txt", ".git/x.txt", "b/code.py", "c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = find_files([tmp_path / "b", tmp_path, tmp_path / "*.txt"], TextOptions())
    assert [str(file.relative_to(tmp_path)) for file in found] == ["b/10.txt", "b/2.txt", "a.txt", "c.jsonl"]
    assert tmp_path / "b" / "code.py" in find_files([tmp_path], TextOptions(format="text"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.txt"])
def test_reading_begins_at_any_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(text_files, "BLOCK_DOCUMENTS", 3)
    texts = [f"text {i}" for i in range(10)]
    for file in (tmp_path / name, tmp_path / f"b{name}"):
        if name.endswith(".parquet"):
            write_parquet(file, texts)
        elif name == "a.txt":
            file.write_text("\n".join(texts))
        else:
            write_jsonl(file, texts)
    options = TextOptions(split="lines" if name == "a.txt" else "none")
    files = find_files([tmp_path], options)
    for start in range(21):
        blocks = read_blocks(files, options, divmod(start, 10))
        read = [(b.file, b.first + i, text) for b in blocks for i, text in decode(b, "text")]
        assert read == [(i // 10, i % 10, texts[i % 10]) for i in range(start, 20)]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=12))
def test_any_text_comes_through_jsonl(tmp_path: Path, texts: list[str]) -> None:
    write_jsonl(tmp_path / "a.jsonl", texts)
    assert list(read_texts([tmp_path])) == texts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', "line 4: expected a JSON object, got no JSON"),
        ('["text"]', "line 4: expected a JSON object with the field 'text', got list"),
        ('{"txt": "a", "id": 1}', r"line 4: expected the field 'text', found txt, id \(did you mean txt\?\); --field"),
        ("{}", "line 4: expected the field 'text', found no field"),
        ('{"text": 5}', "line 4: field 'text': expected a text, got int"),
        ("[" * 100_000, "line 4: expected a JSON object, got no JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n\n  \n' + line + "\n")
    with pytest.raises(FormatError, match=message) as caught:
        list(read_texts([tmp_path]))
    assert str(tmp_path / "a.jsonl") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_bytes_that_are_no_utf8_are_named_by_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(FormatError, match="line 2 is no UTF-8"):
        list(read_texts([tmp_path]))


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_compressed_file_is_an_error_and_no_short_file(tmp_path: Path, suffix: str, damage: str) -> None:
    file = tmp_path / f"a.jsonl{suffix}"
    write_jsonl(file, [f"{i:x}" * 40 for i in range(5000)])
    content = file.read_bytes()
    file.write_bytes(content[:-40] if damage == "cut" else content[:60] + b"garbage" * 9 + content[123:])
    with pytest.raises(FormatError, match=r"a\.jsonl.*( is truncated or corrupt after line|: line) \d+"):
        list(read_texts([file]))


def test_bad_parquet_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write_parquet(file, ["a", "b", None])
    with pytest.raises(FormatError, match="row 3: column 'text': expected a text, got NoneType"):
        list(read_texts([file]))
    with pytest.raises(FormatError, match="expected the column 'txt', found id, text"):
        list(read_texts([file], TextOptions(field="txt")))
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(FormatError, match="is truncated or corrupt"):
        list(read_texts([file]))


def test_a_document_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_BYTES", 1 << 20)
    (tmp_path / "a.txt").write_text("short\n" * 200_000)
    with pytest.raises(FormatError, match="the document in line 1 is longer than 1 MiB"):
        list(read_texts([tmp_path]))
    (tmp_path / "a.txt").write_text("x" * (1 << 21))
    with pytest.raises(FormatError, match="the document in line 1 is longer than 1 MiB"):
        list(read_texts([tmp_path], TextOptions(split="lines")))


def test_paths_that_hold_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file or folder"):
        find_files([tmp_path / "absent"], TextOptions())
    with pytest.raises(NotFoundError, match="nothing to read in"):
        find_files([tmp_path], TextOptions())
    (tmp_path / "a.py").write_text("")
    with pytest.raises(FormatError, match="--format reads any file"):
        find_files([tmp_path / "a.py"], TextOptions())
