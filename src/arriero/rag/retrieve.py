"""Documents for questions, with the inner products that p(z|x) is made of (Lewis et al., 2005.11401, section 2.2)."""

from collections.abc import Mapping, Sequence

from arriero.rag.answer_config import Mode
from arriero.rag.collection import Collection
from arriero.rag.encoder import Encoder
from arriero.rag.generator import RagDocument
from arriero.rag.search import Hit


def documents_for(
    collection: Collection,
    questions: Sequence[str],
    k: int,
    *,
    mode: Mode = "hybrid",
    filters: Mapping[str, str] | None = None,
    scale: float | None = None,
) -> list[list[RagDocument]]:
    """The k documents of each question, best first; fewer where fewer exist.

    Args:
        collection: whose encoder asks.
        questions: as typed.
        k: how many.
        mode: how they are found; their scores are inner products in any case.
        filters: metadata that they must have.
        scale: length of the query vectors; by default what suits the encoder (`Encoder.scale`).

    Raises:
        ArrieroError: as `Collection.search`.
    """
    hits = hits_for(collection, questions, k, mode=mode, filters=filters)
    factor = usual_scale(collection) if scale is None else scale
    return [[as_document(hit, factor) for hit in found] for found in hits]


def hits_for(
    collection: Collection,
    questions: Sequence[str],
    k: int,
    *,
    mode: Mode = "hybrid",
    filters: Mapping[str, str] | None = None,
) -> list[list[Hit]]:
    """`Collection.search` of many questions, which are encoded together."""
    if not questions:
        return []
    vectors = collection.encoder.encode_queries(questions)
    return [
        collection.search_vector(question, vector, k=k, mode=mode, filters=filters)
        for question, vector in zip(questions, vectors, strict=True)
    ]


def usual_scale(collection: Collection) -> float:
    """The length of query vectors that suits a collection's encoder."""
    return collection.encoder.scale if isinstance(collection.encoder, Encoder) else 1.0


def as_document(hit: Hit, scale: float) -> RagDocument:
    """What the generator reads of a hit."""
    return RagDocument(
        text=hit.passage.text, score=scale * hit.dense, title=hit.passage.document, passage_id=hit.passage_id
    )
