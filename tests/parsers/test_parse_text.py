"""Markdown, reStructuredText, plain text, source code, notebooks, JSON and CSV."""

import ast
import json
import pydoc_data.topics
from pathlib import Path

import pytest

from arriero.common.errors import FormatError
from arriero.parsers.limits import ParseLimits
from arriero.parsers.parse import parse_bytes, parse_file


def shown(name, text):
    document = parse_bytes(name, text.encode())
    return [(section.title, section.text) for section in document.sections]


def test_markdown_headings_lists_code_and_tables():
    text = """---
title: "Handbook"
---
Intro with *stress* and `code`.

# Guide

See [the site](https://example.org/x) or [below](#b). [![badge](https://b/x.svg)](https://ci)

## Steps

3. three
   - inner
4. four

```python
def f():
    # not a heading
    return 1
```

| a | b |
|---|---|
| 1 | 2 |

Setext
------
> quoted

<div><b>raw</b> html</div><script>no()</script>
"""
    assert shown("a.md", text) == [
        (None, "Intro with stress and code."),
        ("Guide", "Guide\n\nSee the site (https://example.org/x) or below. badge"),
        (
            "Guide > Steps",
            "Steps\n\n3. three\n  - inner\n4. four\n\ndef f():\n    # not a heading\n    return 1\n\na | b\n1 | 2",
        ),
        ("Guide > Setext", "Setext\n\nquoted\n\nraw html"),
    ]
    assert parse_bytes("a.md", text.encode()).metadata["title"] == "Handbook"


def test_markdown_of_odd_nesting_ends():
    for text in (
        "[" * 20_000 + "x",
        "*a " * 20_000,
        "a " + "`" * 20_000 + "x",
        "<b>" * 20_000 + "x",
    ):
        assert parse_bytes("a.md", text.encode()).text


def test_markdown_nested_beyond_the_parsers_stack_is_refused_and_never_cut():
    for mark in ("> ", "- "):
        assert "deep" in shown("a.md", mark * 45 + "deep")[0][1]
        with pytest.raises(FormatError, match=r"a\.md: .*nested"):
            parse_bytes("a.md", (mark * 5000 + "deep").encode())


def test_rst_titles_by_order_of_their_styles():
    text = "====\nBook\n====\n\nAaa\n===\n\none\n\nBbbb\n~~~~\n\ntwo\n\nCcc\n===\nthree\n\n"
    text += "not a title\n--\n\n+---+\n| x |\n+---+\n"
    assert shown("a.rst", text) == [
        ("Book", "Book"),
        ("Book > Aaa", "Aaa\n\none"),
        ("Book > Aaa > Bbbb", "Bbbb\n\ntwo"),
        ("Book > Ccc", "Ccc\n\nthree\n\nnot a title\n--\n\n+---+\n| x |\n+---+"),
    ]


def test_pythons_own_language_reference_reads_as_rst():
    for name, text in pydoc_data.topics.topics.items():
        document = parse_bytes(f"{name}.rst", text.encode())
        assert document.sections[0].title
        assert len(document.text) > 0.8 * len(text.strip()) - 200
    titles = [title for title, _ in shown("assert.rst", pydoc_data.topics.topics["assert"])]
    assert titles[0] is not None
    assert "assert" in titles[0]


def test_form_feeds_end_pages_of_plain_text():
    document = parse_bytes("rfc.txt", b"one\n\x0ctwo\n\x0c\n\x0cfour")
    assert [(section.page, section.text) for section in document.sections] == [(1, "one"), (2, "two"), (4, "four")]


def test_a_real_book_is_kept_whole(data_folder):
    path = data_folder / "corpus/books/1342.txt"
    document = parse_file(path)
    assert document.text.split() == path.read_text(encoding="utf-8", errors="replace").replace("\ufeff", "").split()


def test_python_is_divided_by_top_level_definitions():
    text = (
        '"""Doc."""\nimport os\n\n\n# Why.\n@deco\ndef f():\n    return 1\n\n'
        "X = 1\n\nclass C:\n    def g(self): ...\n\nasync def h(): ...\n"
    )
    assert shown("a.py", text) == [
        (None, '"""Doc."""\nimport os'),
        ("def f", "# Why.\n@deco\ndef f():\n    return 1"),
        (None, "X = 1"),
        ("class C", "class C:\n    def g(self): ..."),
        ("def h", "async def h(): ..."),
    ]


def test_the_standard_library_keeps_every_word():
    for path in sorted(Path(ast.__file__).parent.glob("*.py"))[:60]:
        if path.stat().st_size:
            assert parse_file(path).text.split() == path.read_text(encoding="utf-8").replace("\x0c", "\n").split()


@pytest.mark.parametrize(
    "text", ["def broken(:\n", "print 'old'\n", "(" * 10_000, "x = '\\d'\n" * 3, "1" + "+1" * 20_000]
)
def test_python_that_does_not_parse_is_still_text(text):
    assert parse_bytes("a.py", text.encode()).text == text.strip()


def test_a_pep_263_cookie_is_obeyed():
    assert parse_bytes("a.py", "# -*- coding: koi8-r -*-\n# привет\n".encode("koi8-r")).text.endswith("привет")


def test_other_code_is_kept_as_it_stands():
    text = "int main(void) {\n\treturn 0;\n}"
    assert shown("a.c", text) == [(None, text)]


def notebook(*cells):
    return json.dumps(
        {"cells": [{"cell_type": kind, "source": source, "outputs": [{"text": "SECRET"}]} for kind, source in cells]}
    )


def test_notebook_cells_come_under_their_headings_without_outputs():
    text = notebook(
        ("markdown", ["# Study\n", "Why."]), ("code", "x = 1\nprint(x)"), ("markdown", "more"), ("raw", "raw")
    )
    assert shown("a.ipynb", text) == [
        ("Study", "Study\n\nWhy."),
        ("Study", "x = 1\nprint(x)"),
        ("Study", "more"),
        ("Study", "raw"),
    ]


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"cells": 3}', '{"cells": [1]}', '{"cells": [{"source": 5}]}', '{"cells": [', "[" * 99_999]
)
def test_a_broken_notebook_is_refused(text):
    with pytest.raises(FormatError, match=r"a\.ipynb: "):
        parse_bytes("a.ipynb", text.encode())


def test_json_values_come_with_their_paths():
    assert shown("a.json", '{"users": [{"name": "Ann", "age": 3}, {"name": "Bo"}], "ok": true, "none": null}') == [
        (None, "users[0].name: Ann\nusers[0].age: 3\nusers[1].name: Bo\nok: true\nnone: null")
    ]
    assert shown("a.jsonl", '{"a": 1}\n\n{"a": 2}\n') == [(None, "a: 1\n\na: 2")]
    assert shown("a.json", "// settings\n{}") == [(None, "// settings\n{}")]


def test_json_nested_too_deeply_is_refused():
    for depth in (1000, 200_000):
        with pytest.raises(FormatError, match="nested"):
            parse_bytes("a.json", b"[" * depth + b"1" + b"]" * depth)


def test_json_of_questions_keeps_every_paragraph(data_folder):
    path = data_folder / "xquad.zh.json"
    text = parse_file(path).text
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    assert all(" ".join(paragraph["context"].split()) in " ".join(text.split()) for paragraph in data[0]["paragraphs"])


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_csv_rows_read_under_their_headings(mark):
    text = f"Name{mark}Age\nAnn{mark}31\nBob{mark}42\n"
    name = "a.tsv" if mark == "\t" else "a.csv"
    assert shown(name, text) == [(None, "Name | Age\nName: Ann | Age: 31\nName: Bob | Age: 42")]


def test_csv_quotes_line_breaks_and_limits():
    assert shown("a.csv", 'City,Note\nRome,"old, ""eternal""\ntown"\n')[0][1].endswith('Note: old, "eternal" town')
    with pytest.raises(FormatError, match="limit max_cells"):
        parse_bytes("a.csv", b"1,2\n" * 100, limits=ParseLimits(max_cells=50))
    assert "x" * 200_000 in shown("a.csv", 'a,b\n"' + "x" * 200_000 + '",1\n')[0][1]


def test_readmes_of_installed_packages_are_read():
    from importlib.metadata import distributions

    found = 0
    for distribution in distributions():
        body = distribution.metadata.get_payload()
        if isinstance(body, str) and len(body) > 500:
            kind = distribution.metadata["Description-Content-Type"] or ""
            document = parse_bytes("README.md" if "markdown" in kind else "README.rst", body.encode("utf-8", "replace"))
            assert len(document.text) > 0.2 * len(body) or "<" in body
            found += 1
    assert found > 10
