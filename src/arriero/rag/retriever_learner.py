"""A retriever that learns: the query tower alone, or with the passages' (Karpukhin et al. 2020, arXiv 2004.04906).

Towers compute without dropout: what is taught is what is searched with. Vectors of passages that do not learn are those
of the collection; a text that is not in it is encoded once, before the training.

B questions, N passages, D vector size.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from arriero.rag.collection import Collection
from arriero.rag.contracts import Vectors
from arriero.rag.dpr_loss import dpr_nll, false_negatives, gather_vectors, repetitions
from arriero.rag.encoder import Encoder
from arriero.rag.evaluation import find_rank
from arriero.rag.negatives import Example
from arriero.rag.passage_bank import PassageBank
from arriero.rag.qa_metrics import recall_at, reciprocal_ranks
from arriero.rag.questions import Question
from arriero.rag.retriever_batches import RetrieverBatch
from arriero.rag.retriever_config import Sides
from arriero.train.loop import Loss
from arriero.train.parallel import Layout
from arriero.train.run_facts import NetworkShape

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
    def config(self) -> NetworkShape:
        """The query tower's shape."""
        config = self.query.transformer.config
        return NetworkShape(config.model_type, config.vocab_size, self.encoder.dim)

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
        wanted = set(texts)
        for _, passage, vector in self.bank.collection.store.each_passage():
            if passage.text in wanted:
                self._vectors[passage.text] = vector
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
            find_rank(question, [document.text for document in own])
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
