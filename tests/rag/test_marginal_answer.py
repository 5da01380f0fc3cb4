"""Answers of the paper's models over a collection: refused, filtered, cited by the posterior."""

import json

import pytest

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.rag.decoding_config import DecodingConfig
from arriero.rag.marginal_answer import ask_marginal, nearest_sentence, token_texts
from tests.rag.toy_generator import ToyGenerator

CONFIG = DecodingConfig(max_tokens=3, num_return=2)


@pytest.fixture
def asked(collection, docs):
    collection.add(docs)

    def ask(question="what do llamas carry", **settings):
        own = {"decoding": CONFIG, "k": 2, "threshold": -1.0} | settings
        return ask_marginal(collection, ToyGenerator(), question, own.pop("decoding"), **own)

    return ask


def test_citations_are_ordered_by_the_posterior_and_sum_to_one(asked):
    answer = asked(k=3)
    shares = [citation.posterior for citation in answer.citations]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert sum(citation.prior for citation in answer.citations) == pytest.approx(1)
    assert all(citation.quote and citation.place for citation in answer.citations)
    assert 0 <= answer.faithfulness <= 1
    plain = json.loads(json.dumps(answer.to_dict()))
    best = plain["hypotheses"][0]
    assert len(best["token_posterior"]) == len(best["tokens"]) == len(best["ids"])
    assert plain["mode"] == "sequence"


def test_citations_say_where_their_passage_was_found_and_where_their_quote_is(asked):
    answer = asked(k=4)
    assert sorted(citation.rank for citation in answer.citations) == [1, 2, 3, 4]
    for citation in answer.citations:
        passage = answer.passages[citation.rank - 1]
        assert (passage.passage_id, passage.passage.place) == (citation.passage_id, citation.place)
        assert citation.posterior == answer.rag.best.posterior[citation.rank - 1]
        start, end = citation.span
        assert " ".join(passage.passage.text[start:end].split()) == citation.quote


def test_an_answer_that_is_cut_off_is_told_from_one_that_ends(asked):
    ends = {asked(decoding=DecodingConfig(max_tokens=most)).rag.best.ids[-1:] for most in (1, 2, 9)}
    assert (0,) in ends  # the stop token
    for most in (1, 2, 9):
        answer = asked(decoding=DecodingConfig(max_tokens=most))
        assert (answer.finish_reason == "stop") == (answer.rag.best.ids[-1] == 0)


@pytest.mark.parametrize(
    ("answer", "quoted"),
    [
        ("1943", "He died in 1943."),
        ("He was dead by the year 1943", "He died in 1943."),  # not word for word
        ("in New York", "Tesla lived in New York hotels."),
        ("", "Tesla lived in New York hotels."),  # nearest to the question
        ("nothing of it", "Tesla lived in New York hotels."),
    ],
)
def test_the_quote_is_the_sentence_that_says_the_answer(answer, quoted):
    text = "Marconi won. He died in 1943. Tesla lived in New York hotels. Tesla was tall."
    start, end = nearest_sentence(text, answer, "Where did Tesla live?")
    assert text[start:end] == quoted


def test_chinese_is_quoted_by_sentence():
    text = "黑豹队丢了 308 分。夏季剧院从 1870 年到 1939 年运营。它在花园里。"
    start, end = nearest_sentence(text, "1870 年到 1939 年", "多长时间？")
    assert text[start:end] == "夏季剧院从 1870 年到 1939 年运营。"


class Bytes:
    """A token a byte."""

    def pieces(self, ids):
        return [bytes([token]).decode(errors="replace") for token in ids]

    def text(self, ids):
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a夏é", ["a", "\ufffd", "\ufffd", "夏", "\ufffd", "é"]),
        ("🦙", ["\ufffd", "\ufffd", "\ufffd", "🦙"]),
        (b"\x80\x80\x80\x80\x80a", [*["\ufffd"] * 5, "a"]),  # no character at all
        (b"\xe5\xa4", ["\ufffd", "\ufffd"]),  # cut off within one
        ("", []),
    ],
)
def test_a_character_of_several_tokens_stands_at_its_last(said, shown):
    raw = said.encode() if isinstance(said, str) else said
    assert token_texts(Bytes(), list(raw)) == tuple(shown)


@pytest.mark.parametrize("k", [1, 2, 50])
def test_as_many_documents_as_asked_for_take_part_and_no_more_than_there_are(asked, k):
    answer = asked(k=k)
    assert len(answer.passages) == len(answer.rag.prior) == len(answer.citations) == min(k, 7)
    ids = [hit.passage_id for hit in answer.passages]
    assert len(set(ids)) == len(ids)
    assert min(ids) > 0


def test_a_question_that_nothing_is_near_to_is_refused(asked):
    answer = asked("zebra quantum xylophone", threshold=0.9)
    assert answer.refused
    assert answer.finish_reason == "refused"
    assert (answer.citations, answer.rag, answer.faithfulness) == ((), None, 0)
    assert answer.to_dict()["hypotheses"] == []


def test_filters_come_before_the_first_k(asked):
    answer = asked("what do llamas carry", k=2, filters={"document": "docs/bread.txt"})
    assert {hit.passage.document for hit in answer.passages} == {"docs/bread.txt"}
    with pytest.raises(NotFoundError, match="no document matches"):
        asked(filters={"document": "absent.txt"}, retrieval="dense")


def test_prior_follows_inner_products_though_words_found_the_passages(asked):
    answer = asked("llamas", retrieval="bm25", k=3)
    dense = [hit.dense for hit in answer.passages]
    assert [each.score for each in answer.rag.documents] == pytest.approx(dense)


def test_an_empty_question_is_refused(asked):
    with pytest.raises(ArrieroError, match="the question is empty"):
        asked("  ")
