r"""LaTeX: comments first, then macros, then the cuts; the traps of other pipelines are here by name."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.corpus.arxiv import read_arxiv
from arriero.corpus.document import Document
from arriero.corpus.latex import clean_latex, drop_comments, drop_false_branches
from arriero.corpus.macros import expand, take_definitions


def clean(text: str) -> Document:
    (document,) = clean_latex()([Document(id="x", text=text, origin="o")])
    return document


def written_out(text: str) -> str:
    rest, macros = take_definitions(text)
    return expand(rest, macros)[0].strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a % b\nc", "a c"),
        ("a%b\n  c", "ac"),
        ("a %b\n\nc", "a \n\nc"),
        ("a%\n  \nc", "a\n  \nc"),
        ("a%x\r\n\r\nc", "a\n\nc"),
        ("% all\na", "a"),
        ("  % all\n\na", "\na"),
        (r"50\% of it % half", r"50\% of it "),
        ("a\\\\% b\nc", "a\\\\c"),
        (r"\verb|%| % c", r"\verb|%| "),
        ("\\begin{verbatim}\n% kept\n\\end{verbatim}% gone\n", "\\begin{verbatim}\n% kept\n\\end{verbatim}"),
        ("a\\begin{comment}\nx\n\\end{comment}b", "ab"),
        ("\\begin{verbatim} % gone", "\\begin{verbatim} "),
        (r"\url{http://a/b%20c} \href{a%b}{c} % d", r"\url{http://a/b%20c} \href{a%b}{c} "),
        ("\\lstinline[language=C]|%d| % c", "\\lstinline[language=C]|%d| "),
        ("\\verb|a % b\n| c", "\\verb|a | c"),
        ("x%", "x"),
        ("é%", "é"),
    ],
)
def test_comments_go_and_nothing_else(text: str, expected: str) -> None:
    assert drop_comments(text) == expected


def test_a_real_file_full_of_traps(data_folder: Path) -> None:
    text = drop_comments((data_folder / "corpus" / "arxiv" / "main.tex").read_text())
    assert "This is a percent \\%." in text
    assert "\\includegraphics{images/im4_included.png}" in text
    for gone in ("not_included", "Whole line comment", "Inline comment", "environment comment"):
        assert gone not in text
    text = drop_false_branches(text)
    assert "Expect me (else block of iffalse)!" in text
    assert "I shall be gone (iffalse block)" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a \iffalse $x\iff y$ \ifthenelse{a}{b}{c} \fi b", "a  b"),
        (r"a \iffalse A\else B \ifx C\fi D\fi E", r"a  B \ifx C\fi D E"),
        (r"\newif\ifdraft \iffalse \ifdraft a\else b\fi \fi c", r"\newif\ifdraft  c"),
        (r"\iffalse a\else b \iffalse c\fi d\fi e", " b  d e"),
        (r"a \iffalse never closed", r"a \iffalse never closed"),
        (r"\ifx a\else b\fi \iffalse c\fi", r"\ifx a\else b\fi "),
        (r"\verb|\iffalse| a \iffalse b\fi", r"\verb|\iffalse| a "),
    ],
)
def test_false_branches_go_and_nothing_else(text: str, expected: str) -> None:
    assert drop_false_branches(text) == expected


def test_a_section_in_a_comment_is_none() -> None:
    front, end = "\\begin{document}\nAbstract\n% \\section{Old}\nMore\n", "\n% \\bibliography{x}\nEnd\n\\end{document}"
    assert clean(f"{front}\\section{{New}}\nText{end}").text == "\\section{New}\nText\nEnd"


@pytest.mark.parametrize("heading", ["section", "chapter", "part", "subsection", "paragraph", "section*"])
def test_every_heading_can_be_the_first(heading: str) -> None:
    assert clean(f"\\begin{{document}}front \\{heading}{{One}} text").text == f"\\{heading}{{One}} text"
    assert clean(f"front \\{heading}[short]{{One}} text").text == f"\\{heading}[short]{{One}} text"


@pytest.mark.parametrize(
    "end",
    [
        "\\bibliography{refs}",
        "\\begin{thebibliography}{9}",
        "\\appendix",
        "\\section*{References}",
        "\\printbibliography",
        "\\bibliographystyle{plain}\n\\bibliography{refs}",
    ],
)
def test_the_bibliography_and_all_after_it_go(end: str) -> None:
    assert clean(f"\\section{{A}} text {end} more \\section{{B}}").text == "\\section{A} text"


def test_no_section_or_nothing_after_it_is_told() -> None:
    assert clean("\\begin{document}text\\end{document}").dropped == "latex: no section"
    assert clean("\\section{A}\\bibliography{x}").dropped == "latex: nothing after the first section"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\newcommand{\R}{\mathbb{R}} $x\in\R$", r"$x\in\mathbb{R}$"),
        (r"\newcommand\R{\mathbb{R}}\R^n", r"\mathbb{R}^n"),
        (r"\newcommand{\norm}[1]{\|#1\|}\norm{x}+\norm y", r"\|x\|+\|y\|"),
        (r"\newcommand{\ip}[2][0]{<#1,#2>}\ip{b} \ip[a]{b}", "<0,b> <a,b>"),
        (r"\renewcommand*{\vec}[1]{\mathbf{#1}}\vec{\vec{a}}", r"\mathbf{\mathbf{a}}"),
        (r"\newcommand{\cal}[1]{\mathcal#1}\cal{X} \cal\cal Y", r"\mathcal X \mathcal\mathcal Y"),
        (r"\newcommand{\norm}[1]{|#1|}\newcommand{\n}{\norm}\n{b} \n c", "|b| |c|"),
        (r"\newcommand{\x}{b}\alpha\x a", r"\alpha b a"),
        (r"\newcommand{\norm}[1]{|#1|}$\norm$ {\norm} \norm", r"$\norm$ {\norm} \norm"),
        (r"\newcommand{\x}{1}\providecommand{\x}{2}\x", "1"),
        (r"\newcommand{\rev}[1]{#1}\newcommand{\R}{\mathbb R}\rev{a \R{} b}", r"a \mathbb R b"),
        (r"\long\def\p#1{<#1>}\gdef\q{r}\p{\q}", "<r>"),
        (r"\def\until#1.{(#1)}\until a.", r"\def\until#1.{(#1)}\until a."),
        (r"\newcommand{\out}[1]{\newcommand{\in}{#1}}\in", r"\in"),
        (r"\newcommand{\opt}[1][d]{(#1)}\opt \opt[e] \opt", "(d) (e) (d)"),
        (r"\def\a{x}\def\pair#1#2{(#1,#2)}\pair\a{y}", "(x,y)"),
        (r"\DeclareMathOperator{\tr}{tr}\tr A", r"\operatorname{tr} A"),
        (r"\DeclareMathOperator*{\amax}{arg\,max}\amax_x", r"\operatorname*{arg\,max}_x"),
        (r"\providecommand{\x}{one}\newcommand{\y}{\x\ two}\y", r"one\ two"),
        (r"\newcommand{\x}{one}\newcommand{\x}{two}\x", "two"),
        (r"\newcommand{\eg}{e.g.}\eg{} this, \egal", r"e.g. this, \egal"),
        (r"\newcommand{\x}{gone}\\x \\\x", r"\\x \\gone"),
        (r"\newcommand{\al}{\alpha}\al b", r"\alpha b"),
        (r"\newcommand{\nested}{{a}{b{c}}}\nested", "{a}{b{c}}"),
        (r"\newcommand{\open}{never closed", r"\newcommand{\open}{never closed"),
    ],
)
def test_macros_are_written_out(text: str, expected: str) -> None:
    assert written_out(text) == expected


def test_structure_is_no_macro_and_programs_stay() -> None:
    text = r"\renewcommand{\section}[1]{\textbf{#1}}\newcommand{\p}{\ifx\a\b c\fi}\section{A} \p"
    assert written_out(text) == r"\section{A} \p"


@pytest.mark.parametrize(
    "text",
    [
        r"\newcommand{\a}{x\b}\newcommand{\b}{y\a} \a",
        r"\newcommand{\a}[1]{\a{#1#1}} \a{x}",
        r"\newcommand{\a}[1]{#1{#1}} \a\a",
        "".join(rf"\newcommand{{\{'a' * n}}}{{\{'a' * (n + 1)}}}" for n in range(1, 2_500)) + r" \a",
    ],
)
def test_what_never_ends_stays(text: str) -> None:
    assert written_out(text) == text.rpartition(" ")[2]


@pytest.mark.parametrize("leaf", ["boom", ""])
@pytest.mark.parametrize("argument", ["", "#1"])
def test_a_macro_that_doubles_forty_times_stays_and_is_counted(leaf: str, argument: str) -> None:
    names = [f"{a}{b}" for a in "abcdgh" for b in "pqrstuv"]
    count, use = ("[1]", f"{{{argument}}}") if argument else ("", "")
    bomb = "".join(
        rf"\newcommand{{\{x}}}{count}{{\{y}{use}\{y}{use}}}" for x, y in itertools.pairwise([*names, "leaf"])
    )
    given = use.replace("#1", "x") + " text"
    document = clean(
        rf"\newcommand{{\leaf}}{count}{{{leaf}}}{bomb}\section{{A}} \{names[0]}{given} \{names[-1]}{given}"
    )
    assert document.text == rf"\section{{A}} \{names[0]}{given} {leaf * 2} text"
    assert document.metadata == {"macros": 43, "macros_left": 1}


def test_a_text_of_many_growing_macros_is_bounded() -> None:
    body = "x" * 1_900
    document = clean(rf"\newcommand{{\a}}{{{body}}}\section{{A}}" + r"\a " * 100_000)
    assert len(document.text) < 12 * 300_000
    assert document.metadata["macros_left"] > 90_000


def test_sections_by_macros_are_found() -> None:
    text = r"\newcommand{\sect}[1]{\section{#1}}\begin{document}front \sect{A} text\end{document}"
    assert clean(text).text == r"\section{A} text"


def test_nothing_in_verbatim_text_is_taken_for_latex() -> None:
    verbatim = "\\begin{lstlisting}\n\\section{No}\\newcommand{\\x}{z}\\bibliography{x} % y\n\\end{lstlisting}"
    text = f"\\newcommand{{\\x}}{{y}}{verbatim}\\section{{A}}\n{verbatim}\n\\x"
    assert clean(text).text == f"\\section{{A}}\n{verbatim}\ny"


def test_verbatim_text_is_not_written_out() -> None:
    text = "\\newcommand{\\x}{y}\\section{A} \\verb|\\x| \\begin{verbatim}\\x\\end{verbatim} \\x"
    assert clean(text).text == "\\section{A} \\verb|\\x| \\begin{verbatim}\\x\\end{verbatim} y"


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["\\newcommand", "{", "}", "\\a", "[1]", "#1", "%", "\n", "\\section{x}", "\\def", "\\", "$", "é"]
        ),
        max_size=40,
    )
)
def test_no_text_is_an_error(parts: list[str]) -> None:
    clean("".join(parts))


@pytest.mark.parametrize(
    "text",
    [
        "\\newcommand{\\a}{" * 20_000,
        "\\begin{verbatim}" * 20_000,
        "{" * 300_000,
        "\\verb|" * 50_000,
        "\\verb|x| " * 30_000,
        "%\n" * 200_000,
        " " * 300_000,
        "\\b{" * 100_000,
        "\\b{" * 50_000 + "}" * 50_000,
        "\\b " * 50_000,
        "\\iffalse\\else" * 30_000,
        "\\section" * 50_000,
        "\\section " + " " * 300_000,
        "\\newcommand" + " " * 300_000,
        "\\def\\c" + "#1 " * 100_000,
        "\n" * 300_000,
        "\\begin{document}" * 20_000,
    ],
    ids=range(17),
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    assert clean(f"\\newcommand{{\\b}}[1]{{#1}}\\section{{A}} \\b{text}").text


def test_a_real_book_begins_at_its_first_chapter(data_folder: Path) -> None:
    (raw,) = read_arxiv(data_folder / "corpus" / "arxiv" / "hott", "hott")
    (document,) = clean_latex()([raw])
    assert document.text.startswith("\\chapter*{Preface}")
    assert len(document.text) == 310_553
    assert document.metadata["files"] == 7
    assert r"the universe $\ensuremath{\mathcal{U}}\xspace$ (i.e., small types)" in document.text
    assert "\\UU" not in document.text
