"""The picture of what tokens lean on, in a terminal and as a page, whatever the tokens are."""

import dataclasses
import re

import pytest

from arriero.rag.collection import Collection
from arriero.rag.decoding_config import DecodingConfig
from arriero.rag.marginal_answer import ask_marginal
from arriero.report.posterior import find_answer, heat_rows, posterior_lines, render_posterior, show_token, strips
from tests.rag.conftest import WordEncoder, write
from tests.rag.toy_generator import ToyGenerator


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("answered")
    write(tmp_path / "docs" / "a.txt", "Llamas carry <b>wool</b> & loads.")
    write(tmp_path / "docs" / "二.txt", "羊驼 carry nothing.")
    with Collection.open(tmp_path / "collection", WordEncoder()) as collection:
        collection.add(tmp_path / "docs")
        config = DecodingConfig(kind="token", max_tokens=4)
        return ask_marginal(collection, ToyGenerator(), "llamas <i>carry</i>?", config, k=2, threshold=-1)


def with_shares(answer, shares, tokens=None):
    """The same, as if each token's shares had been these; documents are repeated to be as many."""
    count = len(shares[0])
    mean = tuple(sum(column) / len(shares) for column in zip(*shares, strict=True))
    best = dataclasses.replace(answer.rag.best, posterior=mean, token_posterior=tuple(shares))
    order = sorted(range(count), key=lambda z: -mean[z])
    citations = [dataclasses.replace(answer.citations[0], rank=z + 1, posterior=mean[z]) for z in order]
    return dataclasses.replace(
        answer,
        citations=tuple(citations),
        passages=answer.passages[:1] * count,
        rag=dataclasses.replace(answer.rag, hypotheses=(best,), prior=(1 / count,) * count),
        tokens=(tuple(tokens or "x" * len(shares)),),
    )


@pytest.mark.parametrize(
    ("piece", "shown"),
    [
        (" the", "␣the"),
        ("\n", "⏎"),
        ("�", "▯"),
        ("\x1b[2J", "▯[2J"),
        ("", "∎"),
        ("  ", "␣␣"),
        ("你", "你"),
        ("\u0301", "▯"),  # an accent alone, which would stand over its neighbour
    ],
)
def test_tokens_are_shown_as_something(piece, shown):
    assert show_token(piece) == shown


def test_strips_hold_each_column_once_and_fit():
    assert strips([], 10) == []
    assert strips([3, 3, 3, 3], 7) == [range(2), range(2, 4)]
    assert strips([30, 2, 2], 7) == [range(1), range(1, 3)]  # what fits nowhere stands alone
    assert strips([5], 0) == [range(1)]


@pytest.mark.parametrize("width", [30, 60, 200])
def test_lines_fit_the_terminal_and_hold_each_token_and_document(answer, width):
    answer = with_shares(answer, [(0.9, 0.1), (0.2, 0.8), (0.5, 0.5)], ["你好", " llamas", "�"])
    lines = posterior_lines(answer, width)[:-1]
    assert all(line.cell_len <= width for line in lines)
    assert len(lines) == sum(not line.plain for line in lines) * (1 + 2 + 1)  # tokens, documents, a blank line
    text = "\n".join(line.plain for line in lines)
    assert all(part in text for part in ("[1] ", "[2] ", "你好", "␣llamas", "▯"))


def test_blocks_stand_under_their_tokens_and_are_as_dark_as_the_share(answer):
    answer = with_shares(answer, [(0.97, 0.03), (0.4, 0.6)], ["你", " is"])
    tokens, first, second, *_ = [line.plain.rstrip() for line in posterior_lines(answer, 80)]
    assert first.startswith("[1]")
    assert (tokens[-5:], first[-6:], second[-6:]) == ("你 ␣is", "██ ▒▒▒", "·· ▓▓▓")


def test_the_strongest_document_of_each_token_is_coloured(answer):
    lines = posterior_lines(with_shares(answer, [(0.9, 0.1), (0.2, 0.8)]), 80)
    coloured = [[line.plain[span.start : span.end] for span in line.spans if span.style == "cyan"] for line in lines]
    assert coloured[1:3] == [["██"], ["██"]]


def test_documents_that_matter_to_no_token_share_a_row(answer):
    few = [0.98, *[0.001] * 19, 0.001]
    other = [0.001] * 20 + [0.98]
    rows = heat_rows(with_shares(answer, [tuple(few), *[tuple(few)] * 200, tuple(other)]))
    assert [row.label[:3] for row in rows] == [
        "[1]",
        "[2]",
        "19 ",
    ]  # the second has 0.6% of all, but a token of its own
    assert rows[1].shares[-1] == pytest.approx(0.98)
    assert rows[2].shares[0] == pytest.approx(0.019)


def test_one_document_has_all(answer):
    answer = with_shares(answer, [(1.0,)])
    assert [row.shares for row in heat_rows(answer)] == [(1.0,)]
    assert "██" in posterior_lines(answer, 80)[1].plain
    assert "[1]" in render_posterior(answer)


def test_an_answer_without_tokens_has_no_lines_and_a_page(answer):
    best = dataclasses.replace(answer.rag.best, ids=(), text="", token_posterior=())
    rag = dataclasses.replace(answer.rag, hypotheses=(best,))
    empty = dataclasses.replace(answer, text="", rag=rag, tokens=((),))
    assert posterior_lines(empty, 80) == []
    assert "(the answer is empty)" in render_posterior(empty)


def test_the_page_shows_texts_as_texts_and_every_share(answer):
    answer = dataclasses.replace(answer, tokens=(("<u>",) * len(answer.rag.best.ids),))
    page = render_posterior(answer)
    plain = re.sub(r"</?mark[^>]*>", "", page)
    assert "&lt;b&gt;wool&lt;/b&gt; &amp; loads" in plain
    assert "&lt;u&gt;" in page
    assert "llamas &lt;i&gt;carry" in page
    assert not re.search(r"<[biu]>", page)
    for citation in answer.citations:
        assert f"width: {100 * citation.posterior:.1f}%" in page
        assert f"width: {100 * citation.prior:.1f}%" in page
    assert "RAG-Token" in page


def test_the_page_marks_the_answer_and_the_sentence_around_it(answer):
    said = dataclasses.replace(answer, text="carry nothing")
    number = next(i for i, hit in enumerate(said.passages) if "nothing" in hit.passage.text)
    text = said.passages[number].passage.text
    citations = [
        dataclasses.replace(one, span=(0, len(text))) if one.rank == number + 1 else one for one in said.citations
    ]
    page = render_posterior(dataclasses.replace(said, citations=tuple(citations)))
    assert (
        '<mark class="quote">羊驼 </mark><mark class="answer">carry nothing</mark><mark class="quote">.</mark>' in page
    )


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("In 1943, in 19430.", "1943.", ["1943"]),
        ("He lived in  new\nYork.", "New York", ["new\nYork"]),
        ("诺曼人罗洛的到来", "罗洛", ["罗洛"]),
        ("Ogród Saski", "Ogr", []),
        ("a (b) c", "(", []),
        ("anything", "", []),
    ],
)
def test_answers_are_found_word_for_word(text, answer, found):
    assert [text[start:end] for start, end in find_answer(text, answer)] == found
