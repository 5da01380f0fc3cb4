"""arXiv's sources in every form they come in, hostile archives among them."""

import gzip
import io
import tarfile
from pathlib import Path

from arriero.corpus.arxiv import find_main, join, read_arxiv
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
        assert paper.text == MAIN.replace("\\input{part}", "text")
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
    assert found[0].text == MAIN.replace("\\input{part}", "in")
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
    assert paper.text == "\\documentclass{a}\\section{A}b"
    assert paper.metadata["files_missing"] == 2


def test_cycles_are_cut_and_a_bomb_of_inputs_is_bounded() -> None:
    files = {"main.tex": "\\documentclass{a}a\\input{b}", "b.tex": "b\\input{main}\\input{b}c"}
    assert join(files) == ("\\documentclass{a}abc", 0)
    files = {f"f{n}.tex": f"\\input{{f{n + 1}}}" * 10 for n in range(12)} | {"f12.tex": "x" * 1000}
    text, _ = join({"main.tex": "\\documentclass{a}\\input{f0}", **files})
    assert len(text) <= 1 << 26


def test_inputs_in_comments_are_none(tmp_path: Path) -> None:
    (tmp_path / "main.tex").write_text("\\documentclass{a}\\section{A}\n% \\input{b}\n\\input b\n")
    (tmp_path / "b.tex").write_text("once")
    (paper,) = read_arxiv(tmp_path, "x")
    assert paper.text.count("once") == 1


def test_the_main_file_is_found() -> None:
    whole = "\\documentclass{a}\\begin{document}\\input{intro}\\end{document}"
    assert find_main({"intro.tex": "long " * 100, "paper.tex": whole, "old.tex": "\\documentclass{a}"}) == "paper.tex"


def test_macros_of_the_papers_own_styles_are_used(tmp_path: Path) -> None:
    files = {
        "main.tex": b"\\documentclass{a}\\begin{document}\\section{A} \\R",
        "my.sty": b"\\newcommand{\\R}{\\mathbb R}",
    }
    (document,) = clean_latex()(read_arxiv(tar(files, tmp_path / "x.tar"), "x"))
    assert document.text == "\\section{A} \\mathbb R"


def test_an_archive_without_latex_is_told(tmp_path: Path) -> None:
    path = tar({"x.png": b"x"}, tmp_path / "x.tar")
    assert [paper.dropped for paper in read_arxiv(path, "x")] == ["arxiv: no LaTeX in it"]
