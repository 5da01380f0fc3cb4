"""The files of a paper joined as TeX reads them."""

import pytest

from arriero.corpus.paper import MOST_DEPTH, NestedTooDeep, TooLong, find_main, join

BEGIN = "\\documentclass{a}\n"


def test_files_are_joined_in_the_order_of_their_inputs() -> None:
    files = {
        "p/main.tex": f"{BEGIN}\\input{{a}}\\include{{sub/b}}\\input c.tex \\input{{none}} end",
        "p/a.tex": "A \\input{a2}\n",
        "p/a2.tex": "A2",
        "p/sub/b.tex": "B\\input{own}\n",
        "p/sub/own.tex": "own\n",
        "p/c.tex": "C\n",
        "p/unused.tex": "unused",
    }
    assert join(files) == (f"{BEGIN}A A2\n\nBown\n\nC\n  end", 1)


def test_a_file_asked_for_twice_is_there_twice_and_a_cycle_is_cut() -> None:
    files = {"main.tex": f"{BEGIN}\\input{{b}}\\input{{b}}", "b.tex": "b\\input{main}\\input{b}c\n"}
    assert join(files) == (f"{BEGIN}bc\nbc\n", 0)


def test_of_a_document_in_a_document_the_body_counts() -> None:
    files = {
        "main.tex": f"{BEGIN}\\begin{{document}}A\\subfile{{b}}C\\end{{document}}",
        "b.tex": "\\documentclass[main]{subfiles}\\begin{document}B\\end{document}",
    }
    assert join(files) == (f"{BEGIN}\\begin{{document}}AB\nC\\end{{document}}", 0)


def test_styles_of_the_paper_are_read_once_and_others_are_left() -> None:
    files = {"main.tex": f"{BEGIN}\\usepackage[x]{{amsmath,my}}\\input{{my.sty}}", "my.sty": "M\n"}
    assert join(files) == (f"{BEGIN}\\usepackage[x]{{amsmath,my}}\nM\nM\n", 0)
    files = {"main.tex": f"{BEGIN}\\usepackage{{my}}\\usepackage{{my}}", "my.sty": "M\n"}
    assert join(files) == (f"{BEGIN}\\usepackage{{my}}\nM\n\\usepackage{{my}}", 0)


def test_what_only_looks_like_an_input_is_none() -> None:
    text = f"{BEGIN}\\includegraphics{{b}} \\inputs b \\verb|\\input{{b}}| \\begin{{alltt}}\\input{{b}}\\end{{alltt}}"
    assert join({"main.tex": text, "b.tex": "B"}) == (text, 0)


def test_no_name_leads_out_of_the_paper() -> None:
    files = {
        "p/main.tex": f"{BEGIN}\\input{{../../b}}\\input{{/etc/passwd}}\\input{{/p/c}}",
        "b.tex": "B",
        "p/c.tex": "C",
    }
    assert join(files) == (f"{BEGIN}B\nC\n", 1)


def test_a_bomb_of_inputs_is_told() -> None:
    files = {f"f{n}.tex": f"\\input{{f{n + 1}}}" * 10 for n in range(12)} | {"f12.tex": "x" * 1000}
    with pytest.raises(TooLong):
        join({"main.tex": f"{BEGIN}\\input{{f0}}", **files})


def test_files_too_deep_are_told() -> None:
    files = {f"f{n}.tex": f"\\input{{f{n + 1}}}" for n in range(MOST_DEPTH + 1)}
    with pytest.raises(NestedTooDeep):
        join({"main.tex": f"{BEGIN}\\input{{f0}}", **files})


@pytest.mark.parametrize(
    "files",
    [
        {"intro.tex": "long " * 100, "!": f"{BEGIN}\\begin{{document}}\\input{{intro}}", "old.tex": BEGIN},
        {
            "answer.tex": f"{BEGIN}\\begin{{document}}" + "a" * 50,
            "!": f"{BEGIN}\\begin{{document}}\\input{{x}}",
            "x.tex": "x" * 99,
        },
        {"figure.tex": f"{BEGIN}\\begin{{document}}" + "a" * 999, "!": f"{BEGIN}\\begin{{document}}\\input{{figure}}"},
        {"my.sty": f"{BEGIN}\\begin{{document}}", "!": "\\section{A}"},
        {"a.tex": "short", "!": "\\section{Much longer}"},
    ],
)
def test_the_main_file_is_found(files: dict[str, str]) -> None:
    assert find_main({("z.tex" if name == "!" else name): text for name, text in files.items()}) == "z.tex"
