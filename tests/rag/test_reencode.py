"""Passages encoded anew: whoever had the collection open before finds by the new vectors, or is told."""

import numpy as np
import pytest

from arriero.common.errors import ArrieroError
from arriero.rag.collection import Collection
from tests.rag.conftest import WordEncoder

QUESTION = "what carries wool over the mountains?"


class WideEncoder(WordEncoder):
    """With vectors of another size."""

    dim = 48


@pytest.fixture
def reader(collection, docs):
    """A collection that was searched, so that its encoder and its index are in memory."""
    collection.add(docs)
    collection.search(QUESTION, mode="dense")
    return collection


@pytest.mark.parametrize("kind", [WordEncoder, WideEncoder])
def test_an_open_collection_refuses_vectors_of_an_encoder_it_did_not_ask_for(reader, kind, write_file, tmp_path):
    vector = reader.encoder.encode_queries([QUESTION])[0]
    with Collection.open(reader.folder) as writer:
        writer.reencode(kind("new words", "y"))
    with pytest.raises(ArrieroError, match=r"was encoded anew by 'new words' .* and the question by 'words'"):
        reader.search_vector(QUESTION, vector, mode="dense")
    with pytest.raises(ArrieroError, match=r"made with the encoder 'new words' .* not with 'words'"):
        reader.search(QUESTION)
    with pytest.raises(ArrieroError, match="made with the encoder 'new words'"):
        reader.add(write_file(tmp_path / "new.txt", "Rain falls."))
    assert len(reader.list()) == 3


@pytest.mark.parametrize("kind", [WordEncoder, WideEncoder])
def test_an_open_collection_that_takes_what_comes_follows_the_new_vectors(reader, kind, monkeypatch):
    fresh = kind("new words", "y")
    reader._asked_encoder = None  # as one that was opened without naming an encoder
    monkeypatch.setattr("arriero.rag.collection.bind_encoder", lambda *given: fresh)
    with Collection.open(reader.folder) as writer:
        writer.reencode(fresh)
        expected = writer.search(QUESTION, mode="dense")
    found = reader.search(QUESTION, mode="dense")
    assert [(hit.passage_id, hit.dense) for hit in found] == [(hit.passage_id, hit.dense) for hit in expected]
    index = reader._live_index.get()
    query = fresh.encode_queries([QUESTION])[0]
    assert index.search(query, 3) == [hit.passage_id for hit in expected][:3]


def test_encoding_anew_changes_vectors_alone(reader, other_encoder):
    store = reader.store
    before = {number: row[0] for number, row in store.passages(store.passage_ids().tolist()).items()}
    told: list[int] = []
    assert reader.reencode(other_encoder, told.append) == len(before) == sum(told)
    after = store.passages(store.passage_ids().tolist())
    assert {number: row[0] for number, row in after.items()} == before
    for passage, vector, _ in after.values():
        np.testing.assert_array_equal(vector, other_encoder.encode_passages([passage.text])[0])
    assert store.verify() == []
    with (
        pytest.raises(ArrieroError, match="made with the encoder 'other words'"),
        Collection.open(reader.folder, WordEncoder()) as old,
    ):
        old.search(QUESTION)
