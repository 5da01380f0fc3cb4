"""A retriever that learns: the query tower alone, or with the passages' (Karpukhin et al. 2020, arXiv 2004.04906).

Towers compute without dropout: what is taught is what is searched with. Vectors of passages that do not learn are those
of the collection; a text that is not in it is encoded once, before the training.

B questions, N passages, D vector size.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from arriero.generate.engine import evaluating
from arriero.rag.collection import Collection
from arriero.rag.contracts import Vectors
from arriero.rag.dpr_loss import dpr_nll, false_negatives, gather_vectors, repetitions
from arriero.rag.encoder import Encoder
from arriero.rag.evaluation import does_answer
from arriero.rag.negatives import Example
from arriero.rag.passage_bank import PassageBank
from arriero.rag.qa_metrics import recall_at, reciprocal_ranks
from arriero.rag.questions import Question
from arriero.rag.retriever_batches import RetrieverBatch
from arriero.rag.retriever_config import Sides
from arriero.rag.tower import TowerShape
from arriero.train.loop import Loss
from arriero.train.parallel import Layout

RECALLS = (1, 5, 20)
_MOST_ENCODED = 20_000
"""Passages that are encoded anew to measure recall, where they learn too."""


class RetrieverLearner(nn.Module):
    """What learns, and how it is measured."""

    def __init__(self, encoder: Encoder, collection: Collection, *, sides: Sides, scale: float) -> None:
        super().__init__()
        self.encoder, self.bank, self.sides, self.scale = encoder, PassageBank(collection), sides, scale
        self.query = encoder.query.network
        self.query.requires_grad_(True)
        self.passage: nn.Module | None = None
        if sides == "both" and encoder.passage is not encoder.query:
            self.passage = encoder.passage.network.requires_grad_(True)
        self.layout = Layout()
        self._vectors: dict[str, Vectors] = {}

    @property
    def config(self) -> TowerShape:
        """The query tower's shape."""
        return self.encoder.query.shape

    @property
    def n_params(self) -> int:
        """Of all that learns."""
        return sum(parameter.numel() for parameter in self.parameters())

    def train(self, mode: bool = True) -> "RetrieverLearner":
        """As `nn.Module`'s, but without dropout."""
        return super().train(False)

    def hold(self, examples: Sequence[Example]) -> None:
        """Look up the vectors of passages that do not learn; those the collection lacks are encoded."""
        if self.sides == "both":
            return
        texts = list(dict.fromkeys(text for example in examples for text in example.passages))
        store = self.bank.collection.store
        for ids, vectors in store.vectors(store.passage_ids()):
            rows = store.passages(ids.tolist())
            known = {rows[number][0].text: vector for number, vector in zip(ids.tolist(), vectors, strict=True)}
            self._vectors |= {text: known[text] for text in texts if text in known}
        strange = [text for text in texts if text not in self._vectors]
        self._vectors |= dict(zip(strange, self.encoder.encode_passages(strange), strict=True))

    def forward(self, batch: RetrieverBatch) -> Tensor:
        """−log p(z⁺|x) of the batch's questions, (B,), over the passages of all ranks."""
        queries = self.encoder.query.embed(batch.questions, self.encoder.query.tower.query_prompt)  # (B, D)
        own = self._embed(batch.passages).to(queries.device)  # (n, D)
        told = self.layout.gather([list(batch.passages) if batch.counts else []])
        sizes = [len(texts) for [texts] in told]
        first, size = sum(sizes[: self.layout.data_rank]), sizes[self.layout.data_rank]
        passages = gather_vectors(own[:size], sizes, self.layout.data_rank)  # (N, D)
        if not batch.counts:
            return 0 * (queries.sum(dim=1) + passages.sum())  # both networks are asked for gradients all the same
        texts = [text for [part] in told for text in part]
        positives = [first + place for place in batch.positives]
        left_out = false_negatives(texts, positives, batch.answers)  # (B, N)
        left_out |= repetitions(texts, range(first, first + size))
        positive = torch.tensor(positives, device=queries.device)
        return dpr_nll(queries, passages, positive, left_out.to(queries.device), self.scale)

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """d(z), (n, D)."""
        if self.sides == "query":
            return torch.from_numpy(np.stack([self._vectors[text] for text in texts]))
        return self.encoder.passage.embed(texts, self.encoder.passage.tower.passage_prompt)

    @torch.no_grad()
    def recall(self, questions: Sequence[Question]) -> dict[str, float]:
        """Recall and mean reciprocal rank over the collection; nothing where passages learn and are too many."""
        if not questions or (self.sides == "both" and self.bank.collection.store.passage_count() > _MOST_ENCODED):
            return {}
        if self.sides == "both":
            self.bank.reencode(self.encoder.encode_passages)
        texts = [question.question for question in questions]
        found = self.bank.find(texts, self.encoder.encode_queries(texts), max(RECALLS))
        ranks = [
            next((n for n, document in enumerate(own, 1) if does_answer(document.text, question)), None)
            for question, own in zip(questions, found.documents, strict=True)
        ]
        shares = {f"recall_{k}": float(np.mean(recall_at(ranks, k))) for k in RECALLS}
        return shares | {"mrr": float(np.mean(reciprocal_ranks(ranks)))}


def retriever_loss(learner: RetrieverLearner, batch: RetrieverBatch) -> Loss:
    """The loss of a batch, each question counting once."""
    nll = learner(batch)  # (B,)
    if not batch.counts:
        return Loss(nll.sum(), 0, {"passages": 0})
    return Loss(nll.sum(), len(nll), {"passages": len(batch.passages)})


@torch.no_grad()
def measure(
    learner: RetrieverLearner, batches: Sequence[RetrieverBatch], add_up: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """Mean loss over held-out questions.

    Args:
        batches: this rank's, as many as every other's.
        add_up: sums over the ranks.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    with evaluating(learner):
        for batch in batches:
            loss = retriever_loss(learner, batch)
            sums += torch.tensor([float(loss.total), float(loss.count)], dtype=torch.float64)
    total, count = add_up(sums.to(learner.encoder.query.device)).tolist()
    return {"loss": total / max(count, 1), "questions": int(count)}
