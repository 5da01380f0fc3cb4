"""Accounts of parts merge to that of the whole, in any order and grouping."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.corpus.document import Document
from arriero.corpus.ledger import SAMPLE_CHARACTERS, SAMPLES, Ledger, total

DOCUMENTS = [
    Document(
        id=f"x#{number}",
        text="wörter und 世界 " * (number % 4),
        origin="o",
        licence="MIT" if number % 3 else None,
        metadata={"language": "de"} if number % 2 else {},
        dropped=("too short", "too long", None)[number % 3],
    )
    for number in range(40)
]


def account(documents: list[Document]) -> Ledger:
    ledger = Ledger()
    for document in documents:
        size = len(document.text.encode())
        ledger.read.add(size)
        if document.dropped:
            ledger.drop(document, size)
        else:
            ledger.keep(document, "before")
    return ledger


@given(st.permutations(range(40)), st.lists(st.integers(0, 40), max_size=5))
def test_any_split_in_any_order_gives_the_same_account(order: list[int], cuts: list[int]) -> None:
    shuffled = [DOCUMENTS[index] for index in order]
    bounds = [0, *sorted(cuts), 40]
    parts = [account(shuffled[start:end]) for start, end in itertools.pairwise(bounds)]
    assert total(parts) == account(DOCUMENTS)


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    account(DOCUMENTS).save(tmp_path / "ledger.json")
    assert Ledger.load(tmp_path / "ledger.json") == account(DOCUMENTS)


@pytest.mark.parametrize(("text", "words"), [("hello 世界", 3), ("สวัสดี", 6), ("こんにちは", 5), ("안녕 세계", 2)])
def test_words_of_scripts_without_spaces_are_counted(text: str, words: int) -> None:
    ledger = Ledger()
    ledger.keep(Document(id="x", text=text, origin="o"), "")
    assert ledger.words == words


def test_samples_are_few_and_short() -> None:
    ledger = account([Document(id=str(n), text="x" * 10_000, origin="o") for n in range(100)])
    assert len(ledger.samples[""]) == SAMPLES
    assert all(len(sample.text) == SAMPLE_CHARACTERS for sample in ledger.samples[""])
