"""The passages of a collection as training sees them: found by inner product, their vectors held fixed.

d(z) is what the store has, as in the paper (Lewis et al., arXiv 2005.11401, section 2.4), until passages are encoded
anew: then an index in memory takes the store's place, and the collection stays as it is.

B queries, k documents, D vector size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from arriero.rag.collection import Collection
from arriero.rag.contracts import Vectors
from arriero.rag.generator import RagDocument
from arriero.rag.index import FaissIndex
from arriero.rag.retrieve import as_document


@dataclass(frozen=True)
class Found:
    """What some queries found; a query with fewer than k documents has empty places at the end."""

    documents: list[list[RagDocument]]
    """(B, up to k), best first; their scores are those of the query vectors at length 1."""
    vectors: torch.Tensor
    """d(z), (B, k, D) fp32, 0 where there is none."""
    present: torch.Tensor
    """(B, k) bool."""


class PassageBank:
    """Where training finds documents."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._fresh: dict[int, Vectors] = {}
        self._index: FaissIndex | None = None

    def find(self, questions: Sequence[str], queries: Vectors, k: int) -> Found:
        """The k documents of the largest inner product with each query (B, D)."""
        rows = [self._nearest(question, query, k) for question, query in zip(questions, queries, strict=True)]
        most = max(len(row) for row in rows)
        vectors = torch.zeros(len(rows), most, queries.shape[1])  # (B, k, D)
        present = torch.zeros(len(rows), most, dtype=torch.bool)  # (B, k)
        for b, row in enumerate(rows):
            for z, (_, vector) in enumerate(row):
                vectors[b, z], present[b, z] = torch.from_numpy(vector.copy()), True
        return Found([[document for document, _ in row] for row in rows], vectors, present)

    def reencode(self, encode: Callable[[Sequence[str]], Vectors]) -> None:
        """Give every passage a new vector, in memory."""
        rows = [(number, passage.text) for number, passage, _ in self.collection.store.each_passage()]
        numbers = [number for number, _ in rows]
        vectors = encode([text for _, text in rows])
        index = FaissIndex(self.collection.encoder.dim)
        index.add(np.array(numbers, dtype=np.int64), vectors)
        self._fresh, self._index = dict(zip(numbers, vectors, strict=True)), index.settled()

    def _nearest(self, question: str, query: Vectors, k: int) -> list[tuple[RagDocument, Vectors]]:
        store = self.collection.store
        if self._index is None:
            hits = self.collection.search_vector(question, query, k=k, mode="dense")
            rows = store.passages([hit.passage_id for hit in hits])
            return [(as_document(hit, 1.0), rows[hit.passage_id][1]) for hit in hits]
        ids = self._index.search(query, k)
        rows = store.passages(ids)
        return [
            (
                RagDocument(
                    text=rows[number][0].text,
                    score=float(query @ self._fresh[number]),
                    title=rows[number][0].document,
                    passage_id=number,
                ),
                self._fresh[number],
            )
            for number in ids
        ]
