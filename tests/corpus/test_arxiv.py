"""arXiv's sources in every form they come in, hostile archives among them."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from arriero.corpus.arxiv import read_arxiv
from arriero.corpus.latex import clean_latex

MAIN = "\\documentclass{article}\\begin{document}\\section{A}\\input{part}\\end{document}"


def tar(files: dict[str, bytes], path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_an_archive_is_one_paper(tmp_path: Path) -> None:
    files = {"main.tex": MAIN.encode(), "part.tex": b"text", "x.png": b"\x89"}
    for mode, suffix in (("w", "tar"), ("w:gz", "tar.gz"), ("w:gz", "gz")):
        (paper,) = read_arxiv(tar(files, tmp_path / f"2101.00001v2.{suffix}", mode), f"2101.00001v2.{suffix}")
        assert paper.text == MAIN.replace("\\input{part}", "text\n")
        assert paper.origin == "https://arxiv.org/abs/2101.00001"
        assert paper.metadata == {"files": 2}


def test_a_bare_file_is_a_paper_too(tmp_path: Path) -> None:
    (tmp_path / "hep-th9901001.gz").write_bytes(gzip.compress(b"\\section{A} text"))
    (tmp_path / "x.tex").write_text("\\section{B}")
    (paper,) = read_arxiv(tmp_path / "hep-th9901001.gz", "hep-th9901001.gz")
    assert (paper.text, paper.origin) == ("\\section{A} text", "https://arxiv.org/abs/hep-th/9901001")
    assert [paper.text for paper in read_arxiv(tmp_path / "x.tex", "x.tex")] == ["\\section{B}"]


def test_a_bulk_archive_holds_many(tmp_path: Path) -> None:
    paper = tar({"main.tex": MAIN.encode(), "part.tex": b"in"}, tmp_path / "p.tar.gz", "w:gz").read_bytes()
    files = {
        "2101/2101.00001.gz": paper,
        "2101/2101.00002.gz": gzip.compress(b"\\section{B}"),
        "2101/2101.00003.pdf": b"%PDF",
        "2101/2101.00004.gz": paper[:100],
    }
    found = list(read_arxiv(tar(files, tmp_path / "bulk.tar"), "bulk.tar"))
    assert [document.dropped for document in found] == [
        None,
        None,
        "arxiv: only a PDF",
        "arxiv: the archive is cut off or damaged",
    ]
    assert found[0].text == MAIN.replace("\\input{part}", "in\n")
    assert [document.id for document in found] == [f"bulk.tar#{name}" for name in files]


def test_an_archive_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = tar({f"{n}.tex": b"x" * 5000 for n in range(9)}, tmp_path / "x.tar.gz", "w:gz")
    path.write_bytes(path.read_bytes()[:-40])
    assert [document.dropped for document in read_arxiv(path, "x")] == ["arxiv: the archive is cut off or damaged"]


def test_one_file_in_latin_1_costs_no_paper(tmp_path: Path) -> None:
    files = {"main.tex": MAIN.encode(), "part.tex": "café".encode("latin-1")}
    (paper,) = read_arxiv(tar(files, tmp_path / "x.tar"), "x.tar")
    assert "café" in paper.text
    assert paper.metadata == {"files": 2, "files_not_utf8": 1}


def test_no_name_leads_out_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "secret.tex").write_text("secret")
    files = {
        "p/main.tex": b"\\documentclass{a}\\section{A}\\input{../secret}\\input{/etc/passwd}\\input{../p/b}",
        "p/b.tex": b"b",
    }
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("p/link.tex")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.tex")
        archive.addfile(link)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (paper,) = read_arxiv(tmp_path / "x.tar", "x.tar")
    assert paper.text == "\\documentclass{a}\\section{A}b\n"
    assert paper.metadata["files_missing"] == 2


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("2101.00001.gz", gzip.compress(b"%PDF-1.4 \\section", mtime=0), "arxiv: only a PDF"),
        ("2101.00001.gz", gzip.compress(b"%!PS-Adobe \\section", mtime=0), "arxiv: only PostScript"),
        ("2101.00001.pdf", b"%PDF", "arxiv: only a PDF"),
        ("2101.00001.gz", gzip.compress(b"%auto-ignore\nThis paper is gone.", mtime=0), "arxiv: withdrawn"),
        ("2101.00001.gz", gzip.compress(b"%auto-ignore\n\\section{Why} we withdrew", mtime=0), "arxiv: withdrawn"),
        (
            "2101.00001.gz",
            gzip.compress(b"\\section{A} This paper has been withdrawn by us.", mtime=0),
            "arxiv: withdrawn",
        ),
        ("2101.00001.gz", gzip.compress(b"\\section{A} \x00", mtime=0), "nul bytes"),
        ("2101.00001.gz", gzip.compress(b"no sign of TeX", mtime=0), "arxiv: no LaTeX in it"),
        (
            "2101.00001.gz",
            gzip.compress(b"\\section{A}" * 99, mtime=0)[:-9],
            "arxiv: the archive is cut off or damaged",
        ),
        ("2101.00001.gz", b"", "arxiv: no LaTeX in it"),
    ],
)
def test_what_is_no_paper_is_told(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    (paper,) = read_arxiv(tmp_path / name, name)
    assert (paper.dropped, paper.origin) == (reason, "https://arxiv.org/abs/2101.00001")


def test_figures_and_archives_in_a_paper_are_no_papers(tmp_path: Path) -> None:
    files = {"a.pdf": b"%PDF", "b.eps.gz": gzip.compress(b"%!PS"), "data.tar.gz": b"", "main.tex": b"\\section{A}"}
    (paper,) = read_arxiv(tar(files, tmp_path / "x.tar.gz", "w:gz"), "x.tar.gz")
    assert (paper.id, paper.text, paper.dropped) == ("x.tar.gz#", "\\section{A}", None)
    (paper,) = read_arxiv(tar({"a.pdf": b"%PDF"}, tmp_path / "y.tar"), "y.tar")
    assert paper.dropped == "arxiv: only a PDF"


def test_a_bulk_archive_may_name_papers_as_it_likes(tmp_path: Path) -> None:
    papers = {"a.gz": gzip.compress(b"\\section{A}"), "b/c.tar.gz": b"no archive", "d.txt": b"list"}
    found = list(read_arxiv(tar(papers, tmp_path / "x.tar"), "x.tar"))
    assert [(paper.id, paper.text, paper.dropped) for paper in found] == [
        ("x.tar#a.gz", "\\section{A}", None),
        ("x.tar#b/c.tar.gz", "", "arxiv: no LaTeX in it"),
    ]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("2101.00001v12.tar.gz", "2101.00001"),
        ("arXiv-0704.0001v1.gz", "0704.0001"),
        ("0001/hep-th0001001.gz", "hep-th/0001001"),
        ("math.GT/0309136", "math/0309136"),
        ("astro-ph/0309136v2.tar", "astro-ph/0309136"),
        ("2199.00001.gz", None),
        ("report0103001.gz", None),
        ("12345678.gz", None),
        ("x2101.00001.gz", None),
    ],
)
def test_the_papers_address_is_told_by_its_name(tmp_path: Path, name: str, number: str | None) -> None:
    (tmp_path / "x").write_bytes(b"\\section{A}")
    (paper,) = read_arxiv(tmp_path / "x", name)
    assert paper.origin == (f"https://arxiv.org/abs/{number}" if number else str(tmp_path / "x"))


def test_hostile_archives_are_told(tmp_path: Path) -> None:
    good = tar({"2101.00001.gz": gzip.compress(MAIN.encode())}, tmp_path / "good.tar").read_bytes()[:1024]
    long = tarfile.TarInfo("long")
    long.type, long.size = tarfile.XHDTYPE, 1 << 40
    headers = b"".join(tarfile.TarInfo.create_pax_global_header({"a": "b"}) for _ in range(3_000))
    for rest in (b"Z" * 512, good[:300], long.tobuf(tarfile.GNU_FORMAT), headers):
        (tmp_path / "x.tar").write_bytes(good + rest)
        found = list(read_arxiv(tmp_path / "x.tar", "x.tar"))
        assert [(paper.id, paper.dropped) for paper in found] == [
            ("x.tar#2101.00001.gz", None),
            ("x.tar#!", "arxiv: the archive is cut off or damaged"),
        ]


def test_a_paper_is_bounded(tmp_path: Path) -> None:
    path = tar({f"{n}.tex": b"\\a" * (1 << 23) for n in range(5)}, tmp_path / "x.tar.gz", "w:gz")
    (paper,) = read_arxiv(path, "x")
    assert paper.dropped == "arxiv: more than 64 MiB or 5000 files"
    path = tar({f"{n}.tex": b"\\a" for n in range(5_001)}, tmp_path / "x.tar.gz", "w:gz")
    (paper,) = read_arxiv(path, "x")
    assert paper.dropped == "arxiv: more than 64 MiB or 5000 files"
    (tmp_path / "y.gz").write_bytes(gzip.compress(b"\\a" * (1 << 25) + b"a"))
    (paper,) = read_arxiv(tmp_path / "y.gz", "y.gz")
    assert paper.dropped == "arxiv: longer than 64 MiB"


def test_inputs_in_comments_are_none(tmp_path: Path) -> None:
    (tmp_path / "main.tex").write_text("\\documentclass{a}\\section{A}\n% \\input{b}\n\\input b\n")
    (tmp_path / "b.tex").write_text("once")
    (paper,) = read_arxiv(tmp_path, "x")
    assert paper.text.count("once") == 1


def test_macros_of_the_papers_own_styles_are_used(tmp_path: Path) -> None:
    files = {
        "./main.tex": b"\\documentclass{a}\\usepackage{amsmath, my}\\begin{document}\\section{A} \\R\\Q",
        "./my.sty": b"\\newcommand{\\R}{\\mathbb R}\\RequirePackage{my}",
        "./unused.sty": b"\\newcommand{\\Q}{\\mathbb Q}",
    }
    (document,) = clean_latex()(read_arxiv(tar(files, tmp_path / "x.tar"), "x"))
    assert document.text == "\\section{A} \\mathbb R\\Q"


def test_an_archive_without_latex_is_told(tmp_path: Path) -> None:
    path = tar({"x.png": b"x"}, tmp_path / "x.tar")
    assert [paper.dropped for paper in read_arxiv(path, "x")] == ["arxiv: no LaTeX in it"]
