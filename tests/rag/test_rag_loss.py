"""Both losses, their gradients, and what they teach: the retriever too, from answers alone."""

import pytest
import torch
from torch import Tensor, nn

from arriero.common.errors import ArrieroError
from arriero.rag.decoding_config import RagKind
from arriero.rag.generator import RagDocument
from arriero.rag.rag_loss import Retrieved, document_scores, marginal_nll
from tests.rag.toy_generator import STOP, ToyGenerator

KINDS: tuple[RagKind, ...] = ("sequence", "token")
DOCUMENTS = [RagDocument(text=text, score=0.0) for text in ("one", "two", "three")]


class TableGenerator(ToyGenerator):
    """A toy whose logits are parameters in double precision: a table by document, place and token."""

    def __init__(self, tokens: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(3, tokens, self.vocab_size, dtype=torch.float64))
        self.model = nn.Module()
        self.model.table = self.table

    def logprobs(self, prompts, targets) -> Tensor:
        texts = [document.text for document in DOCUMENTS]
        rows = [
            self.table[texts.index(bytes(prompt.ids).decode().split("//")[0].strip("/"))].log_softmax(-1)[
                torch.arange(len(target)), torch.tensor(target)
            ]
            for prompt, target in zip(prompts, targets, strict=True)
        ]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def found_for(generator: ToyGenerator, counts=(3, 3), dim=2) -> Retrieved:
    prompts = [[generator.prompt(f"q{b}", DOCUMENTS[z], reserve=0) for z in range(n)] for b, n in enumerate(counts)]
    present = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    return Retrieved(prompts, torch.zeros(len(counts), max(counts), dim), present)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_scores_and_generator_are_those_of_the_formula(kind, monkeypatch):
    generator = TableGenerator()
    monkeypatch.setattr(Tensor, "float", lambda self: self)  # the marginals in double precision
    scores = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    targets = [[1, 2, STOP], [3, STOP]]

    def loss(scores: Tensor, table: Tensor) -> Tensor:
        return marginal_nll(generator, kind, scores, found_for(generator), targets).sum()

    assert torch.autograd.gradcheck(loss, (scores, generator.table))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_teach_scores_and_the_token_that_ends_them(kind):
    generator = TableGenerator()
    scores = torch.zeros(1, 3, requires_grad=True)
    marginal_nll(generator, kind, scores, found_for(generator, (3,)), [[1, STOP]]).sum().backward()
    assert (scores.grad.abs() > 1e-4).all()
    slopes = generator.table.grad[:, 1, STOP]
    assert (slopes < 0).all(), "more of the token that ends the answer is better"


def test_both_losses_are_equal_for_an_answer_of_one_token():
    generator = TableGenerator()
    scores = torch.tensor([[0.3, -1.0, 2.0]])
    one, other = (marginal_nll(generator, kind, scores, found_for(generator, (3,)), [[2]]) for kind in KINDS)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_with_fewer_documents_is_as_if_asked_alone(kind):
    generator = TableGenerator()
    scores = torch.tensor([[0.3, -1.0, 2.0], [0.5, 0.1, 9.0]])
    together = marginal_nll(generator, kind, scores, found_for(generator, (3, 2)), [[1, STOP], [3, 2, STOP]])
    alone = marginal_nll(generator, kind, scores[1:, :2], found_for(generator, (2,)), [[3, 2, STOP]])
    torch.testing.assert_close(together[1:], alone)


def test_labels_of_minus_100_have_no_loss():
    generator = TableGenerator()
    scores = torch.tensor([[0.3, -1.0, 2.0]])
    found = found_for(generator, (3,))
    padded = marginal_nll(generator, "sequence", scores, found, [[1, STOP, -100, -100]])
    torch.testing.assert_close(padded, marginal_nll(generator, "sequence", scores, found, [[1, STOP]]))
    with pytest.raises(ArrieroError, match="everything is masked"):
        marginal_nll(generator, "sequence", scores, found, [[-100]])


def test_scores_are_inner_products_of_the_stored_vectors_and_move_the_query_alone():
    queries = torch.randn(2, 4, requires_grad=True)
    vectors = torch.randn(2, 3, 4)
    scores = document_scores(queries, vectors, 20.0)
    torch.testing.assert_close(scores[1, 2], 20 * queries[1] @ vectors[1, 2])
    generator = TableGenerator()
    marginal_nll(generator, "sequence", scores, found_for(generator), [[1, STOP], [2, STOP]]).sum().backward()
    assert queries.grad.abs().min() > 0
    assert not vectors.requires_grad


def test_the_query_moves_towards_the_document_that_explains_the_answer():
    generator = TableGenerator()
    with torch.no_grad():
        generator.table.zero_()
        generator.table[1, 0, 3] = generator.table[1, 1, STOP] = 5.0  # document 'two' says the answer
    vectors = torch.eye(3)[None]
    query = nn.Parameter(torch.tensor([[1.0, 0.0, 0.0]]))
    optimizer = torch.optim.Adam([query], lr=0.1)
    losses = []
    for _ in range(40):
        scores = document_scores(query, vectors)
        loss = marginal_nll(generator, "sequence", scores, found_for(generator, (3,)), [[3, STOP]]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    assert query.argmax() == 1
