"""Query encoder and generator as one module that learns (Lewis et al., arXiv 2005.11401, section 2.4).

Each question is encoded, its documents are looked up with the vector as it is now, and both models learn from
−log p(y|x). The query encoder computes without dropout: what it is taught about is what it would find.

B questions, k documents, D vector size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from arriero.model.config import LlamaConfig
from arriero.rag.collapse import RetrievalState, retrieval_state
from arriero.rag.decode import RagAnswer, decode
from arriero.rag.decoding_config import DecodingConfig, RagKind
from arriero.rag.generator import Generator, RagDocument
from arriero.rag.llama_generator import LlamaGenerator
from arriero.rag.marginal import document_prior
from arriero.rag.passage_bank import Found, PassageBank
from arriero.rag.qa_metrics import holds_answer
from arriero.rag.questions import Question
from arriero.rag.rag_batches import RagBatch
from arriero.rag.rag_loss import Retrieved, document_scores, marginal_nll
from arriero.rag.tower import TowerModel
from arriero.train.loop import Loss
from arriero.train.run_facts import NetworkShape


class RagLearner(nn.Module):
    """What learns: the query tower, unless it is frozen, and the generator."""

    def __init__(
        self,
        generator: Generator,
        tower: TowerModel,
        bank: PassageBank,
        *,
        kind: RagKind,
        k: int,
        scale: float,
        passages: TowerModel | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            generator: answers.
            tower: encodes questions.
            bank: finds documents.
            kind: RAG-Sequence or RAG-Token.
            k: documents of each question.
            scale: length of the query vectors.
            passages: a second copy of `tower`, where passages are encoded anew: as it was when that was last done.
        """
        super().__init__()
        self.reader, self.tower, self.bank, self.passages = generator, tower, bank, passages
        self.kind, self.k, self.scale = kind, k, scale
        self.generator, self.query = generator.model, tower.network
        self.indexed = None if passages is None else passages.network.requires_grad_(False)

    @property
    def config(self) -> LlamaConfig | NetworkShape:
        """The generator's shape."""
        if isinstance(self.reader, LlamaGenerator):
            return self.reader.model.config
        shape: Any = self.generator.config
        return NetworkShape(shape.model_type, shape.vocab_size, shape.hidden_size, shape.tie_word_embeddings)

    @property
    def n_params(self) -> int:
        """The generator's parameters, without adapters."""
        if isinstance(self.reader, LlamaGenerator):
            return self.reader.model.n_params
        return sum(parameter.numel() for parameter in self.generator.parameters())

    def train(self, mode: bool = True) -> "RagLearner":
        """As `nn.Module`'s, but for the towers."""
        super().train(mode)
        self.query.eval()
        if self.indexed is not None:
            self.indexed.eval()
        return self

    def forward(self, batch: RagBatch) -> tuple[Tensor, Tensor, Found]:
        """−log p(y|x) (B,) of a batch, d(z) · q(x) (B, k), and what was found for it."""
        queries = self.embed([question.question for question in batch.questions])  # (B, D)
        found = self.find(batch.questions, queries)
        scores = document_scores(queries, found.vectors.to(queries.device), self.scale)  # (B, k)
        prompts = [
            [self.reader.prompt(question.question, document, reserve=len(target)) for document in documents]
            for question, documents, target in zip(batch.questions, found.documents, batch.targets, strict=True)
        ]
        retrieved = Retrieved(prompts, found.vectors, found.present)
        return marginal_nll(self.reader, self.kind, scores, retrieved, batch.targets), scores.detach(), found

    def embed(self, questions: Sequence[str]) -> Tensor:
        """q(x), (B, D), with gradients where the tower learns."""
        return self.tower.embed(questions, self.tower.tower.query_prompt)

    def find(self, questions: Sequence[Question], queries: Tensor) -> Found:
        """The documents of some queries (B, D)."""
        return self.bank.find([each.question for each in questions], queries.detach().float().cpu().numpy(), self.k)

    @torch.no_grad()
    def look_up(self, questions: Sequence[Question]) -> Found:
        """What questions find now."""
        return self.find(questions, self.embed([each.question for each in questions]))

    @torch.no_grad()
    def reencode(self, *, renew: bool) -> None:
        """Encode all passages by the query tower as it is now, or else as it was when that was last done."""
        assert self.passages is not None
        assert self.indexed is not None
        if renew:
            for kept, now in zip(self.indexed.parameters(), self.query.parameters(), strict=True):
                kept.copy_(now.full_tensor() if isinstance(now, DTensor) else now)
        encode, prompt = self.passages.encode, self.tower.tower.passage_prompt
        self.bank.reencode(lambda texts: encode(texts, prompt))

    def answer(self, questions: Sequence[Question], max_tokens: int, reader: Generator) -> list[RagAnswer]:
        """Greedy answers as the models are now, by the generator or a copy of it."""
        reader.forget()
        documents = [
            [RagDocument(text=each.text, score=self.scale * each.score, title=each.title) for each in own]
            for own in self.look_up(questions).documents
        ]
        config = DecodingConfig(kind=self.kind, decoding="greedy", max_tokens=max_tokens)
        return decode(reader, [each.question for each in questions], documents, config)

    def state(self, questions: Sequence[Question], before: Sequence[Sequence[int]]) -> RetrievalState:
        """How retrieval does for some questions, whose documents before the training had these ids."""
        found = self.look_up(questions)
        scores = [[self.scale * document.score for document in own] for own in found.documents]
        priors = [torch.tensor(own).softmax(0).tolist() for own in scores]
        return retrieval_state(found_ids(found), priors, before)


def found_ids(found: Found) -> list[list[int]]:
    """The ids of what was found."""
    return [[document.passage_id or 0 for document in own] for own in found.documents]


def rag_loss(learner: RagLearner, batch: RagBatch) -> Loss:
    """The loss of a micro-batch, each question counting once, and what retrieval came to."""
    nll, scores, found = learner(batch)  # (B,), (B, k)
    if not batch.counts:
        return Loss(0 * nll.sum(), 0, {"unique_documents": 0, "prior_entropy": 0, "answer_found": 0})
    prior = document_prior(scores.cpu(), found.present)  # (B, k)
    entropy = -torch.where(found.present, prior.exp() * prior, 0.0).sum()
    right = [
        any(holds_answer(document.text, question.answers) for document in own)
        for question, own in zip(batch.questions, found.documents, strict=True)
    ]
    ids = {number for own in found_ids(found) for number in own}
    metrics: dict[str, float | Tensor] = {
        "unique_documents": len(ids),
        "prior_entropy": entropy,
        "answer_found": sum(right),
    }
    return Loss(nll.sum(), len(nll), metrics)
