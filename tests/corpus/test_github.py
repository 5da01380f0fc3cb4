"""Code: whose files are taken, what of them is left out, and which nobody wrote."""

import json
import os
import sysconfig
from collections import Counter
from importlib.metadata import distributions
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.corpus import github
from arriero.corpus.code import clean_code, count_signs, is_code, why_drop, without_header
from arriero.corpus.document import Document
from arriero.corpus.github import LICENCES, CodeReader, repository_licence

MIT = 'Permission is hereby granted, free of\n charge, to any person … THE SOFTWARE IS PROVIDED "AS IS", …'
APACHE = "Apache License\n Version 2.0, January 2004"
BSD = "Redistribution and use in source and binary forms … this list of conditions …"
SKIPPED = "github: folder not looked into (hidden, made, or of others)"
CODE = "def walk(llama):\n    return llama.position + 1\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "llamas"
    for name, text in {
        "LICENSE": MIT,
        "src/walk.py": CODE,
        "src/empty.py": "",
        "logo.svg": "<svg/>",
        "server.crt": "x",
        ".git/config.py": CODE,
        "node_modules/x.js": CODE,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "src" / "latin.py").write_bytes(b"# caf\xe9\n")
    (folder / "src" / "link.py").symlink_to(folder / "src" / "walk.py")
    return folder


def test_a_repository_gives_its_code_and_counts_the_rest(repository: Path) -> None:
    found = {document.origin: document for document in CodeReader()(repository, "llamas")}
    assert {origin: document.dropped for origin, document in found.items()} == {
        "llamas/LICENSE": "github: a licence or certificate",
        "llamas/.git/": SKIPPED,
        "llamas/logo.svg": "github: no code (extension)",
        "llamas/node_modules/": SKIPPED,
        "llamas/server.crt": "github: a licence or certificate",
        "llamas/src/empty.py": "empty",
        "llamas/src/latin.py": "utf-8: invalid",
        "llamas/src/link.py": "github: no ordinary file",
        "llamas/src/walk.py": None,
    }
    assert found["llamas/src/walk.py"].licence == "MIT"


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (MIT, "MIT"),
        (APACHE, "Apache-2.0"),
        (BSD, "BSD-2-Clause"),
        (f"{BSD} Neither the name of … to endorse or promote products", "BSD-3-Clause"),
        (f"{BSD} endorse or promote. All advertising materials mentioning features", None),
        (MIT.replace('"AS IS"', "``AS IS''"), "MIT"),
        (MIT.replace("to any person", "to any person or organization"), None),
        (f"{MIT} The Software shall be used for Good, not Evil.", None),
        (f"{BSD} endorse or promote … Parts: {MIT}", "BSD-3-Clause"),
        ("GNU GENERAL PUBLIC LICENSE", None),
    ],
)
def test_licences_are_told_by_their_texts(tmp_path: Path, text: str, licence: str | None) -> None:
    (tmp_path / "COPYING.txt").write_text(text)
    assert repository_licence(tmp_path) == licence
    (tmp_path / "x.py").write_text(CODE)
    (document,) = [d for d in CodeReader()(tmp_path, "x") if d.origin == "x/x.py"]
    assert document.dropped == (None if licence else "github: no licence known")
    (document,) = [d for d in CodeReader(())(tmp_path, "x") if d.origin == "x/x.py"]
    assert document.dropped is None


def test_the_nearest_licence_counts(tmp_path: Path) -> None:
    for name, text in {
        "README.md": "Some repositories, each under a licence of its own.",
        "free/LICENSE": MIT,
        "free/a.py": CODE,
        "free/gpl/COPYING": "GNU GENERAL PUBLIC LICENSE",
        "free/gpl/b.py": CODE,
        "free/sub/license_check.py": CODE,
        "other/c.py": CODE,
        "other/LICENSE/d.py": CODE,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "free" / "linked").symlink_to(tmp_path / "other")
    found = list(CodeReader()(tmp_path, "x"))
    assert [(document.origin, document.dropped, document.licence) for document in found] == [
        ("x/README.md", "github: no licence known", None),
        ("x/free/LICENSE", "github: a licence or certificate", "MIT"),
        ("x/free/a.py", None, "MIT"),
        ("x/free/linked", "github: no ordinary file", "MIT"),
        ("x/free/gpl/COPYING", "github: a licence or certificate", None),
        ("x/free/gpl/b.py", "github: no licence known", None),
        ("x/free/sub/license_check.py", None, "MIT"),
        ("x/other/c.py", "github: no licence known", None),
        ("x/other/LICENSE/d.py", "github: no licence known", None),
    ]


def test_licences_of_real_packages_are_told() -> None:
    """Metadata may name one of two licences; else they and the text agree."""
    told = Counter[bool]()
    for package in distributions():
        (claim,) = package.metadata.get_all("License-Expression") or [None]
        for path in package.files or ():
            if claim in LICENCES and path.parts[0].endswith(".dist-info") and path.name == "LICENSE":
                told[repository_licence(Path(str(path.locate())).parent) == claim] += 1
    assert told[True] > 10
    assert told[False] <= told.total() // 10


def test_the_extensions_are_an_option(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "a.odd").write_text(CODE)
    found = {d.origin: d.dropped for d in CodeReader((), extensions=("odd",))(tmp_path, "x")}
    assert found == {"x/a.odd": None, "x/a.py": "github: no code (extension)"}


def test_a_file_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(github, "MAX_BYTES", 1000)
    (tmp_path / "x.py").write_text("x" * 1001)
    assert [document.dropped for document in CodeReader(())(tmp_path, "x")] == ["github: longer than 64 MiB"]


def test_names_of_odd_bytes_are_read(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.py")).write_text(CODE)
    (found,) = CodeReader(())(tmp_path, "x")
    assert (found.origin, found.dropped) == ("x/caf\ufffd.py", None)


def test_lines_of_json_are_files(tmp_path: Path) -> None:
    rows = [
        {"content": CODE, "path": "a/b.py", "repo_name": "x/y", "license": "apache-2.0"},
        {"content": CODE, "path": "a/b.py", "repo_name": "x/y", "license": "gpl-3.0"},
        {"content": CODE, "path": "a/b.csv", "license": "MIT"},
        {"path": "a.py"},
        {"content": CODE, "path": "a.py"},
    ]
    (tmp_path / "x.jsonl").write_bytes(
        b"\n".join(json.dumps(row).encode() for row in rows) + b'\n{"content": "\xe9"}\n'
    )
    found = list(CodeReader()(tmp_path / "x.jsonl", "x"))
    assert [document.dropped for document in found] == [
        None,
        "github: licence not wanted",
        "github: no code (extension)",
        "json: no text in its field",
        "github: no licence known",
        "utf-8: invalid",
    ]
    assert (found[0].origin, found[0].licence) == ("x/y/a/b.py", "Apache-2.0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/* Copyright 2020 X\n * all of it */\n\nint x;", "int x;"),
        ("/* what it does */\nint x;", "/* what it does */\nint x;"),
        ("// Copyright X\n// more\n\nint x; // y", "int x; // y"),
        ("#!/bin/sh\n# Copyright X\n\necho", "#!/bin/sh\necho"),
        (
            "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n# Copyright X\nx = 1",
            "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\nx = 1",
        ),
        ('"""Copyright X."""\nx = 1', "x = 1"),
        ('"""What it does."""\nx = 1', '"""What it does."""\nx = 1'),
        ('"""What it does.\n\nCopyright X."""\nx = 1', '"""What it does.\n\nCopyright X."""\nx = 1'),
        ("<!-- Copyright -->\n<p>", "<p>"),
        ("<?php\n/* Copyright */\nx", "<?php\nx"),
        ("#ifndef X\n#define X\n/* Copyright */\nint x;", "#ifndef X\n#define X\nint x;"),
        ("// Copyright\n#include <a>\nint x;", "#include <a>\nint x;"),
        ("#include <copyright.h>\nint x;", "#include <copyright.h>\nint x;"),
        ("#copyright {\n}\n", "#copyright {\n}\n"),
        ("# What it does.\n\n# Copyright\n# X\n\nx = 1", "# What it does.\n\nx = 1"),
        ("# Reads a driver's license.\nx = 1", "# Reads a driver's license.\nx = 1"),
        ("-- SPDX-License-Identifier: MIT\nSELECT", "SELECT"),
        ("# what it does\nx = 1", "# what it does\nx = 1"),
        ("x = 1\n# Copyright", "x = 1\n# Copyright"),
        ("/* never closed Copyright", "/* never closed Copyright"),
    ],
)
def test_the_header_goes_and_the_interpreter_stays(text: str, expected: str) -> None:
    assert without_header(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CODE, None),
        (f"x = '{'a' * 1000}'", "a line too long"),
        ("\n".join(["y" * 100] * 5), None),
        ("\n".join(["y" * 100] * 4 + ["y" * 101]), "lines too long"),
        ("{}[]()<>+-*/ " * 5, "too few letters and digits"),
        ("a" * 12 + "-" * 36, None),
        ("a" * 12 + "-" * 37, "too few letters and digits"),
        ("1234 5678\n" * 9, "too few letters a token"),
        ("ab " * 10 + "a " * 10, None),
        ("ab " * 9 + "a " * 11, "too few letters a token"),
        ("", "nothing but a header"),
    ],
)
def test_files_that_nobody_wrote_are_dropped(text: str, reason: str | None) -> None:
    assert why_drop(text) == reason


@given(st.text(st.characters(max_codepoint=127)))
def test_tables_and_patterns_count_the_same(text: str) -> None:
    alphanumeric, letters, tokens = count_signs(text + "\u3042 \u3042")
    tokens -= 2 if not text or text[-1].isspace() or not (text[-1].isalnum() or text[-1] == "_") else 1
    assert count_signs(text) == (alphanumeric - 2, letters - 2, tokens)


@pytest.mark.parametrize("path", ["a/b.PY", "Makefile", "x.tar.go", "src/Dockerfile"])
def test_names_of_code(path: str) -> None:
    assert is_code(path)
    assert not is_code(f"{path}.bin")


def test_the_standard_library_is_mostly_kept() -> None:
    folder = Path(sysconfig.get_path("stdlib")) / "json"
    found = Counter(document.dropped for document in clean_code()(CodeReader(())(folder, "json")))
    assert found[None] == len(list(folder.glob("*.py")))


def test_a_real_header_goes_and_nothing_else() -> None:
    text = (Path(sysconfig.get_path("stdlib")) / "logging" / "__init__.py").read_text(encoding="utf-8")
    clean = without_header(text)
    assert text.startswith("# Copyright")
    assert clean.startswith('"""\nLogging package for Python.')
    assert text.endswith(clean)


def test_endless_headers_are_read_in_linear_time() -> None:
    for text in ("/*" * 500_000, "# " * 500_000, "#\n" * 500_000, '"""' * 300_000, " " * 1_000_000):
        (document,) = clean_code()([Document(id="x", text=text, origin="o")])
        assert document.dropped or document.text
