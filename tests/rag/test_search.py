"""Retrieval: true inner products on every hit, ranks fused by the formula, and defects of other systems kept out."""

from pathlib import Path

import numpy as np
import pytest

from arriero.common.errors import ArrieroError
from arriero.parsers.document import Document, Section
from arriero.rag.collection import Collection
from arriero.rag.search import MODES, fuse

SUBJECTS = ["llama wool", "bread oven", "star light", "river bridge", "violin concert", "chess opening"]


@pytest.fixture
def filled(collection: Collection) -> Collection:
    documents = [
        Document(f"{subject} {number}", (Section(f"{subject} text {number} of the series"),), {"subject": subject})
        for subject in SUBJECTS
        for number in range(10)
    ]
    collection.add_documents(documents)
    return collection


@pytest.mark.parametrize("mode", MODES)
def test_every_hit_carries_its_true_inner_product(filled: Collection, encoder, mode) -> None:
    hits = filled.search("a llama in an oven", k=20, mode=mode)
    assert hits
    query = encoder.encode_queries(["a llama in an oven"])[0].astype(np.float64)
    for hit in hits:
        stored = encoder.encode_passages([hit.passage.text])[0].astype(np.float64)
        assert hit.dense == pytest.approx(query @ stored, abs=1e-9)
        assert (hit.bm25 is None) == (mode == "dense" or not {"llama", "oven"} & set(hit.passage.text.split()))
    scores = [(-hit.score, hit.passage_id) for hit in hits]
    assert scores == sorted(scores)


def test_hybrid_is_reciprocal_rank_fusion(filled: Collection) -> None:
    question = "llama bridge text 3"
    dense = [hit.passage_id for hit in filled.search(question, k=100, mode="dense")]
    bm25 = [hit.passage_id for hit in filled.search(question, k=100, mode="bm25")]
    for hit in filled.search(question, k=10):
        expected = sum(1 / (60 + ranks.index(hit.passage_id) + 1) for ranks in (dense, bm25) if hit.passage_id in ranks)
        assert hit.score == pytest.approx(expected, rel=1e-12)


def test_fusion_of_ranks() -> None:
    scores = fuse([[7, 8], [8, 9]])
    assert scores == {7: 1 / 61, 8: 1 / 62 + 1 / 61, 9: 1 / 62}


@pytest.mark.parametrize("mode", MODES)
def test_filters_never_empty_an_answer_that_exists(filled: Collection, mode) -> None:
    hits = filled.search("llama wool text", k=5, mode=mode, filters={"subject": "chess opening"})
    assert len(hits) == 5
    assert {hit.metadata["subject"] for hit in hits} == {"chess opening"}


def test_filter_by_document_and_unknown_filter(filled: Collection) -> None:
    (hit,) = filled.search("bread", filters={"document": "bread oven 4"})
    assert hit.passage.document == "bread oven 4"
    assert filled.search("bread", filters={"document": "no such"}) == []
    with pytest.raises(ArrieroError, match="did you mean subject"):
        filled.search("bread", filters={"subjects": "x"})


@pytest.mark.parametrize("mode", MODES)
def test_k_of_the_call_wins_and_small_corpora_give_fewer(filled: Collection, mode) -> None:
    assert len(filled.search("text series", k=1, mode=mode)) == 1
    hits = filled.search("text series", k=1000, mode=mode)
    assert len(hits) == 60
    assert len({hit.passage_id for hit in hits}) == 60


@pytest.mark.parametrize("question", ["", "   ", '"', "AND OR (", "你好吗", "x" * 10_000, "\0", "\ud800", "*"])
@pytest.mark.parametrize("mode", MODES)
def test_any_question_is_answered_without_error(filled: Collection, question: str, mode) -> None:
    assert len(filled.search(question, k=3, mode=mode)) <= 3


def test_bad_requests_are_refused(filled: Collection) -> None:
    with pytest.raises(ArrieroError, match="k must be at least 1"):
        filled.search("x", k=0)
    with pytest.raises(ArrieroError, match="did you mean dense"):
        filled.search("x", mode="dens")  # type: ignore[arg-type]


def test_order_does_not_depend_on_the_run(filled: Collection, encoder) -> None:
    first = [hit.passage_id for hit in filled.search("text of the series", k=60)]
    with Collection.open(filled.folder, encoder) as again:
        assert [hit.passage_id for hit in again.search("text of the series", k=60)] == first


@pytest.mark.parametrize("mode", MODES)
def test_a_removed_document_is_never_found(filled: Collection, mode) -> None:
    filled.search("bread", mode=mode)
    filled.remove([f"bread oven {number}" for number in range(9)])
    hits = filled.search("bread oven text", k=60, mode=mode)
    assert [hit.passage.document for hit in hits if "bread" in hit.passage.text] == ["bread oven 9"]


def test_a_search_sees_what_another_process_wrote(filled: Collection, encoder, tmp_path: Path) -> None:
    with Collection.open(filled.folder, encoder) as writer:
        assert filled.search("zeppelin", mode="bm25") == []
        writer.add_documents([Document("new", (Section("zeppelin over the lake"),))])
    assert filled.search("zeppelin", k=1)[0].passage.document == "new"
    assert filled.search("zeppelin over the lake", k=1, mode="dense")[0].passage.document == "new"
