"""Excerpts: the nearest sentences, in the documents' order."""

import pytest

from arriero.rag.excerpt import pick_sentences
from arriero.rag.passage import Passage
from arriero.rag.search import Hit


def hit(text: str) -> Hit:
    passage = Passage(text, "doc", 0, len(text), None, None, None, 0)
    return Hit(passage=passage, passage_id=0, score=1.0, dense=0.9, bm25=None, metadata={})


def picked(encoder, question: str, texts: list[str], count: int) -> list[list[str]]:
    spans = pick_sentences(question, [hit(text) for text in texts], encoder, count)
    return [[text[start:end] for start, end in parts] for text, parts in zip(texts, spans, strict=True)]


def test_the_nearest_sentences_of_all_passages_are_picked(encoder):
    texts = ["Llamas carry wool. Ships sail far. The sun is hot.", "Rain falls. Wool is what llamas carry."]
    assert picked(encoder, "What wool do llamas carry?", texts, 2) == [
        ["Llamas carry wool."],
        ["Wool is what llamas carry."],
    ]


def test_adjacent_sentences_are_one_piece(encoder):
    texts = ["Rain falls. Llamas carry wool. Llamas carry loads. The sun is hot."]
    assert picked(encoder, "llamas carry", texts, 2) == [["Llamas carry wool. Llamas carry loads."]]


def test_what_two_documents_say_alike_is_picked_once(encoder):
    texts = ["Llamas carry wool.", "Llamas  carry\nwool. Llamas sleep."]
    assert picked(encoder, "llamas carry wool", texts, 2) == [["Llamas carry wool."], ["Llamas sleep."]]


@pytest.mark.parametrize("texts", [[], [""], ["One sentence only"]])
def test_few_sentences_are_all_there_is(encoder, texts):
    assert picked(encoder, "q", texts, 5) == [[text] if text else [] for text in texts]
