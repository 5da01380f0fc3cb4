"""Other documents, other answers, and nobody trains (Lewis et al. 2020, section 4.5: index hot-swapping)."""

import pytest
import torch

from arriero.model.source import load_model
from arriero.rag.chunk import ChunkConfig
from arriero.rag.collection import Collection
from arriero.rag.decode import decode
from arriero.rag.decoding_config import DecodingConfig, RagKind
from arriero.rag.llama_generator import LlamaGenerator
from arriero.rag.rag_loss import Retrieved, marginal_nll
from arriero.rag.retrieve import documents_for
from tests.rag.conftest import WordEncoder
from tests.rag.rag_room import TOWNS, mayor
from tests.train.tuning import write_base

QUESTIONS = [f"who is the mayor of {town}?" for town in TOWNS]
YEARS = (0, 1)


class Words(WordEncoder):
    dim = 256  # enough that two words' directions hardly meet


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    """Two years; every town has another mayor in each."""
    room = tmp_path_factory.mktemp("years")
    for year in YEARS:
        (room / f"docs{year}").mkdir()
        for number, town in enumerate(TOWNS):
            (room / f"docs{year}" / f"{town}.txt").write_text(f"the mayor of {town} is {mayor(number, year)}.")
    opened = [Collection.open(room / f"year{year}", Words(), chunk=ChunkConfig(words=20)) for year in YEARS]
    for year, collection in enumerate(opened):
        collection.add(room / f"docs{year}")
    yield opened
    for collection in opened:
        collection.close()


def find(collection, k=2):
    return documents_for(collection, QUESTIONS, k, mode="dense", scale=20.0)


def answers(year: int) -> list[str]:
    return [mayor(number, year) for number in range(len(TOWNS))]


@pytest.fixture(scope="module")
def reader(collections, tmp_path_factory) -> LlamaGenerator:
    """A LLaMA of two layers that has learnt to read: each question has another answer in the other year."""
    loaded = load_model(str(write_base(tmp_path_factory.mktemp("base"), dim=32, hidden_dim=48, max_seq_len=160)))
    generator = LlamaGenerator(loaded.model, loaded.tokenizer)
    years = [lesson(generator, collection, year) for year, collection in enumerate(collections)]
    optimizer = torch.optim.Adam(loaded.model.parameters(), lr=5e-3)
    for step in range(90):
        scores, found, targets = years[step % 2]
        loss = marginal_nll(generator, "sequence", scores, found, targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return generator


def lesson(generator: LlamaGenerator, collection: Collection, year: int) -> tuple[torch.Tensor, Retrieved, list]:
    """All questions with what a collection says, and that year's answers."""
    documents = find(collection)
    scores = torch.tensor([[document.score for document in own] for own in documents])
    prompts = [
        [generator.prompt(question, document, reserve=8) for document in own]
        for question, own in zip(QUESTIONS, documents, strict=True)
    ]
    found = Retrieved(prompts, torch.empty(0), torch.ones_like(scores, dtype=torch.bool))
    return scores, found, [generator.target(answer) for answer in answers(year)]


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_the_collection_decides_the_answers_of_one_model(collections, reader, kind: RagKind):
    for year, collection in enumerate(collections):
        found = decode(reader, QUESTIONS, find(collection), DecodingConfig(kind=kind, max_tokens=6))
        assert [answer.best.text for answer in found] == answers(year)
        for town, answer in zip(TOWNS, found, strict=True):
            leant = max(range(len(answer.documents)), key=answer.best.posterior.__getitem__)
            assert town in answer.documents[leant].text, "its own document stands behind the answer"
