"""Words of BM25: the same cut in the index and in the question, and no question that breaks the syntax."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.rag.terms import index_text, match_expression


def finds(text: str, question: str) -> bool:
    db = sqlite3.connect(":memory:")
    try:
        db.execute('CREATE VIRTUAL TABLE t USING fts5 (x, tokenize = "unicode61 remove_diacritics 2")')
        db.execute("INSERT INTO t VALUES (?)", (index_text(text),))
        expression = match_expression(question)
        return bool(expression and db.execute("SELECT 1 FROM t WHERE t MATCH ?", (expression,)).fetchall())
    finally:
        db.close()


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("The quick fox", "FOX?"),
        ("Ein Café in Köln", "cafe koln"),
        ("职业碗防守截锋卡万", "防守"),
        ("职业碗防守截锋卡万", "卡万是谁"),
        ("我有一只猫", "猫"),
        ("猫很可爱", "猫"),
        ("東京タワーに行きました", "タワー"),
        ("ﾀﾜｰ", "タワー"),
        ("대한민국의 수도", "한민"),
        ("用Python编程", "python"),
        ("用Python编程", "编程"),
        ("ＦＡＩＳＳ index", "faiss"),
        ("call os.path.join here", "path.join()"),
        ("the __init__ method", "__init__"),
        ("𠮷野家", "𠮷野"),
        ("Цена 5 рублей", "РУБЛЕЙ"),
    ],
)
def test_finds(text: str, question: str) -> None:
    assert finds(text, question)


@pytest.mark.parametrize(("text", "question"), [("你好吗", "好你"), ("abc", "b"), ("职业碗", "球场"), ("foo bar", "")])
def test_does_not_find(text: str, question: str) -> None:
    assert not finds(text, question)


@pytest.mark.parametrize(
    "question",
    [
        '"',
        "a AND",
        "NOT x",
        "(",
        "x*",
        "^x",
        "col:x",
        "NEAR(a b)",
        "a\0b",
        "'; DROP TABLE t; --",
        "\ud800",
        "-",
        "_",
        "*",
        "😀",
    ],
)
def test_no_question_is_a_syntax_error(question: str) -> None:
    finds("some text", question)


@given(st.text(max_size=40))
def test_any_text_can_be_asked(question: str) -> None:
    finds("some text 一些文字", question)


@given(st.text(alphabet="职业碗防守截锋卡万ab 。", min_size=1, max_size=20), st.data())
def test_every_cut_of_a_cjk_text_is_found_in_it(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    part = text[start : start + data.draw(st.integers(1, 4))]
    if not (set(part) - set("ab 。")) or set(part) & set("ab"):
        return  # a Latin word is found whole or not at all
    assert finds(text, part)
