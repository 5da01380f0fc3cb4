"""Names of uploaded files, and forms that come in pieces."""

import asyncio
from pathlib import Path

import pytest

from arriero.serve.errors import ApiError
from arriero.serve.uploads import number_names, receive_files, safe_name


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("report.pdf", "report.pdf"),
        ("Jahresbericht für 2024 (final).pdf", "Jahresbericht für 2024 (final).pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a.txt", "a.txt"),
        ("a/b/", "b"),
        ("/", "unnamed"),
        ("..", "unnamed"),
        ("", "unnamed"),
        (".bashrc", "bashrc"),
        ("a.txt. . ", "a.txt"),
        ("a\0b\n\x1b[31m.txt", "ab[31m.txt"),
        ("a\u202etxt.exe", "atxt.exe"),
        ("e\u0301.md", "é.md"),
        ("\ud800x.txt", "x.txt"),
        ("NUL", "_NUL"),
        ("com1.tar.gz", "_com1.tar.gz"),
        ("a\u2044b.txt", "a\u2044b.txt"),
        ("文件.docx", "文件.docx"),
        ("<b>.txt", "<b>.txt"),
    ],
)
def test_a_name_is_one_plain_file_name(given, kept):
    assert safe_name(given) == kept
    assert safe_name(kept) == kept


def test_long_names_keep_their_suffix():
    for name in ("x" * 300 + ".pdf", "界" * 300 + ".pdf", "x." + "y" * 300, "🦙" * 99 + ".md"):
        kept = safe_name(name)
        assert len(kept.encode()) <= 200
        assert Path(kept).suffix == Path(name).suffix or len(Path(name).suffix) > 20
        assert safe_name(kept) == kept


def test_equal_names_are_numbered():
    given = ["a.txt", "A.txt", "a.txt", "a (2).txt", "b", "b"]
    assert number_names(given) == ["a.txt", "A (3).txt", "a (4).txt", "a (2).txt", "b", "b (2)"]
    assert len({name.casefold() for name in number_names(["x" * 200] * 1000)}) == 1000


def receive(body: bytes, folder: Path, size: int, most: int = 10_000) -> list:
    async def stream():
        for start in range(0, len(body), size):
            yield body[start : start + size]

    return asyncio.run(receive_files(stream(), "multipart/form-data; boundary=b", folder, most_bytes=most))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_files_arrive_whole_however_they_are_cut(tmp_path, size):
    content = b"--b\r\n--\r\n-b\r\r\n-" + bytes(range(256))
    part = b'--b\r\ncontent-disposition: form-data; name="files"; filename="%b"\r\nX-Other: y\r\n\r\n%b\r\n'
    files = receive(part % (b"one.txt", content) + part % (b"two.txt", b"") + b"--b--\r\n", tmp_path, size)
    assert [(file.name, file.path.name, file.size) for file in files] == [
        ("one.txt", "0", len(content)),
        ("two.txt", "1", 0),
    ]
    assert files[0].path.read_bytes() == content


def test_no_more_than_the_bound_is_written(tmp_path):
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + b"x" * 100_000
    with pytest.raises(ApiError, match="larger than 10,000 bytes") as refused:
        receive(part, tmp_path, 1000)
    assert refused.value.status == 413
    assert (tmp_path / "0").stat().st_size <= 10_000
