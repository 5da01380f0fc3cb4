"""The picture of what tokens lean on, in a terminal and as a page, whatever the tokens are."""

import dataclasses

import pytest

from arriero.rag.decode import DecodingConfig
from arriero.rag.marginal_answer import ask_marginal
from arriero.report.posterior import posterior_table, render_posterior, show_token
from tests.rag.conftest import WordEncoder, write
from tests.rag.toy_generator import ToyGenerator


@pytest.fixture
def answer(tmp_path):
    from arriero.rag.collection import Collection

    write(tmp_path / "docs" / "a.txt", "Llamas carry <b>wool</b> & loads.")
    write(tmp_path / "docs" / "二.txt", "羊驼 carry nothing.")
    with Collection.open(tmp_path / "collection", WordEncoder()) as collection:
        collection.add(tmp_path / "docs")
        config = DecodingConfig(kind="token", max_tokens=4)
        return ask_marginal(collection, ToyGenerator(), "llamas carry?", config, k=2, threshold=-1)


@pytest.mark.parametrize(
    ("piece", "shown"),
    [(" the", "␣the"), ("\n", "⏎"), ("�", "▯"), ("\x1b[2J", "▯[2J"), ("", "∎"), (" ", "␣"), ("你", "你")],
)
def test_tokens_are_shown_as_something(piece, shown):
    assert show_token(piece) == shown


def test_lines_fit_the_terminal_and_hold_each_token_and_document(answer):
    tokens = len(answer.rag.best.ids)
    pieces = ["你好", " lla", "�", "a very long token indeed"][:tokens]
    for width in (30, 60, 200):
        lines = [line.plain for line in posterior_table(answer, pieces, width)]
        strips = sum(not line for line in lines)
        assert len(lines) == strips * (2 + 2)
        text = "\n".join(lines)
        assert "1 docs/a.txt" in text
        assert "2 docs/二.txt" in text
        assert "你好" in text
    wide = posterior_table(answer, pieces, 200)
    assert all(line.cell_len <= 200 for line in wide)


def test_an_answer_without_tokens_has_no_lines(answer):
    empty = dataclasses.replace(answer.rag.best, ids=(), token_posterior=())
    rag = dataclasses.replace(answer.rag, hypotheses=(empty,))
    assert posterior_table(dataclasses.replace(answer, rag=rag), [], 80) == []


def test_the_page_shows_texts_as_texts_and_every_share(answer):
    pieces = ["<i>", "x", "y", "z"][: len(answer.rag.best.ids)]
    page = render_posterior(answer, pieces, "token")
    assert "&lt;b&gt;wool&lt;/b&gt; &amp; loads" in page
    assert "<b>wool" not in page
    assert "&lt;i&gt;" in page
    assert f"{answer.citations[0].posterior:.3f}" in page
    assert "RAG-Token" in page
