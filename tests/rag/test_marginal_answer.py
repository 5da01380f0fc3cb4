"""Answers of the paper's models over a collection: refused, filtered, cited by the posterior."""

import json

import pytest

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.rag.decode import DecodingConfig
from arriero.rag.marginal_answer import ask_marginal
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
    assert plain["hypotheses"][0]["token_posterior"]


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
